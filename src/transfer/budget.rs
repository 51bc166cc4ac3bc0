//! A bound on the bytes that many users hold together, in memory or on disk.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How many bytes one permit stands for.
const UNIT: u64 = 1 << 10;

/// A bound on bytes. Cheap to clone; clones share it.
#[derive(Debug, Clone)]
pub struct Budget {
    free: Arc<Semaphore>,
    all: u32,
}

/// Bytes of a budget; given back when dropped.
#[derive(Debug)]
pub struct Hold {
    permit: OwnedSemaphorePermit,
}

impl Budget {
    /// A budget of `bytes`, in whole KiB.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        let all = u32::try_from(bytes / UNIT).unwrap_or(u32::MAX);
        Self { free: Arc::new(Semaphore::new(usize::try_from(all).unwrap_or(Semaphore::MAX_PERMITS))), all }
    }

    /// How many bytes are held now, in whole KiB.
    #[must_use]
    pub fn used(&self) -> u64 {
        let free = u64::try_from(self.free.available_permits()).unwrap_or(u64::MAX);
        u64::from(self.all).saturating_sub(free) * UNIT
    }

    /// Takes `bytes`, at once or not at all.
    #[must_use]
    pub fn try_hold(&self, bytes: u64) -> Option<Hold> {
        let permit = Arc::clone(&self.free).try_acquire_many_owned(units(bytes)?).ok()?;
        Some(Hold { permit })
    }

    /// Takes `bytes`, and waits for them at most `patience`; whoever asks first is served first. `None` at once where the
    /// whole budget is smaller.
    pub async fn hold(&self, bytes: u64, patience: Duration) -> Option<Hold> {
        let wanted = units(bytes).filter(|wanted| *wanted <= self.all)?;
        let acquired = Arc::clone(&self.free).acquire_many_owned(wanted);
        let permit = tokio::time::timeout(patience, acquired).await.ok()?.ok()?;
        Some(Hold { permit })
    }
}

impl Hold {
    /// Changes how many bytes are held, at once. Returns `false`, and changes nothing, where the budget has no room.
    #[must_use]
    pub fn resize(&mut self, bytes: u64) -> bool {
        let Some(wanted) = units(bytes) else { return false };
        let held = self.permit.num_permits();
        let wanted = usize::try_from(wanted).unwrap_or(usize::MAX);
        if wanted <= held {
            // Gives the surplus back.
            drop(self.permit.split(held - wanted));
            return true;
        }
        let more = u32::try_from(wanted - held).ok().and_then(|more| Arc::clone(self.permit.semaphore()).try_acquire_many_owned(more).ok());
        more.map(|more| self.permit.merge(more)).is_some()
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
        assert_eq!(budget.used(), 6 << 10);
        drop(first);
        let all = budget.hold(10 << 10, Duration::ZERO).await.unwrap();
        assert!(budget.try_hold(1).is_none());
        drop(all);
        assert!(budget.try_hold(11 << 10).is_none());
        // It would be waited for without an end.
        assert!(budget.hold(11 << 10, Duration::from_secs(3600)).await.is_none());
    }

    #[test]
    fn a_hold_grows_and_shrinks() {
        let budget = Budget::new(10 << 10);
        let mut one = budget.try_hold(0).unwrap();
        let mut other = budget.try_hold(3 << 10).unwrap();
        assert!(one.resize(5 << 10) && one.resize((6 << 10) + 1));
        assert!(!other.resize(4 << 10) && !other.resize(u64::MAX));
        assert!(one.resize(1) && other.resize(9 << 10));
        drop(one);
        assert!(other.resize(10 << 10));
    }
}
