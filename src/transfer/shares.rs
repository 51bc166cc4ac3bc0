//! The memory that all downloads of the process may take together.
//!
//! What a reader takes right now passes through; bytes that arrive ahead of it need room here first.
//! Nobody waits for room: without it a reader goes on with one request. So there is no deadlock, however
//! small the shares. Each reader has a fair share, and one that has stopped reading gives its room back
//! when others need it.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::download::RANGE_BYTES;

/// Room for bytes. Clones are one and the same.
#[derive(Debug, Clone)]
pub(super) struct Shares(Arc<Inner>);

struct Inner {
    total: u64,
    free: Arc<Semaphore>,
    holders: Mutex<Vec<Weak<dyn Holder>>>,
}

/// Room that is given back when this is dropped.
pub(super) type Room = OwnedSemaphorePermit;

/// A reader, as the others know it.
pub(super) trait Holder: Send + Sync {
    /// Whether it has stopped reading. When `needed`, one that has gives its room back.
    fn is_idle(&self, needed: bool) -> bool;
}

impl Shares {
    pub(super) fn new(total: u64) -> Self {
        let total = total.min(Semaphore::MAX_PERMITS as u64);
        let free = Semaphore::new(usize::try_from(total).unwrap_or(Semaphore::MAX_PERMITS));
        Self(Arc::new(Inner { total, free: Arc::new(free), holders: Mutex::default() }))
    }

    /// Makes a reader known; until it is dropped.
    pub(super) fn add(&self, holder: Weak<dyn Holder>) {
        self.0.holders.lock().unwrap_or_else(PoisonError::into_inner).push(holder);
    }

    /// Room for `bytes`, if there is any now.
    pub(super) fn reserve(&self, bytes: u64) -> Option<Room> {
        Arc::clone(&self.0.free).try_acquire_many_owned(u32::try_from(bytes).ok()?).ok()
    }

    /// What each of those that read now may hold, in bytes.
    pub(super) fn share(&self) -> u64 {
        let needed = (self.0.free.available_permits() as u64) < RANGE_BYTES;
        let mut holders = self.0.holders.lock().unwrap_or_else(PoisonError::into_inner);
        let mut readers = 0;
        holders.retain(|holder| {
            let Some(holder) = holder.upgrade() else { return false };
            readers += u64::from(!holder.is_idle(needed));
            true
        });
        self.0.total / readers.max(1)
    }
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Shares").field("total", &self.total).field("free", &self.free.available_permits()).finish_non_exhaustive()
    }
}
