//! A bound on bytes that many share: in memory, or on disk.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What one permit stands for.
const UNIT: u64 = 1 << 10;

/// So many bytes, for all who share it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Budget(Arc<Semaphore>);

/// Bytes of a budget; given back when dropped.
#[derive(Debug)]
pub struct Hold {
    _permit: OwnedSemaphorePermit,
}

impl Budget {
    /// A budget of `bytes`, in whole KiB.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        Self(Arc::new(Semaphore::new(usize::try_from(bytes / UNIT).unwrap_or(Semaphore::MAX_PERMITS).min(Semaphore::MAX_PERMITS))))
    }

    /// Takes `bytes`, at once or not at all.
    #[must_use]
    pub fn try_hold(&self, bytes: u64) -> Option<Hold> {
        let permit = Arc::clone(&self.0).try_acquire_many_owned(units(bytes)?).ok()?;
        Some(Hold { _permit: permit })
    }

    /// Takes `bytes`, after at most `patience`; who came first is served first.
    pub async fn hold(&self, bytes: u64, patience: Duration) -> Option<Hold> {
        let acquired = Arc::clone(&self.0).acquire_many_owned(units(bytes)?);
        let permit = tokio::time::timeout(patience, acquired).await.ok()?.ok()?;
        Some(Hold { _permit: permit })
    }
}

fn units(bytes: u64) -> Option<u32> {
    u32::try_from(bytes.div_ceil(UNIT)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn no_more_is_held_than_there_is() {
        let budget = Budget::new(10 << 10);
        let first = budget.try_hold(6 << 10).unwrap();
        assert!(budget.try_hold(5 << 10).is_none());
        assert!(budget.hold(5 << 10, Duration::ZERO).await.is_none());
        drop(first);
        let all = budget.hold(10 << 10, Duration::ZERO).await.unwrap();
        assert!(budget.try_hold(1).is_none());
        drop(all);
        assert!(budget.try_hold(11 << 10).is_none());
    }
}
