//! The memory that all downloads of the process may take together.
//!
//! Bytes that a reader takes at once need no memory here; bytes that are buffered for it do. Nobody waits for room: a reader
//! without room goes on with one request, so there is no deadlock, however small the shares are. Each reader has a fair
//! share, and a reader that has stopped reading gives its room back when others need it.

use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::ranges::RANGE_BYTES;

/// Room for buffered bytes. Clones share it.
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
    /// Whether it has stopped reading. If it has and room is `needed`, it gives its room back.
    fn is_idle(&self, needed: bool) -> bool;
}

impl Shares {
    pub(super) fn new(total: u64) -> Self {
        let total = total.min(Semaphore::MAX_PERMITS as u64);
        let free = Semaphore::new(usize::try_from(total).unwrap_or(Semaphore::MAX_PERMITS));
        Self(Arc::new(Inner { total, free: Arc::new(free), holders: Mutex::default() }))
    }

    /// Adds a reader. It is removed by itself when it is dropped.
    pub(super) fn add(&self, holder: Weak<dyn Holder>) {
        self.0.holders.lock().unwrap_or_else(PoisonError::into_inner).push(holder);
    }

    /// Room for `bytes`, if there is any now.
    pub(super) fn reserve(&self, bytes: u64) -> Option<Room> {
        Arc::clone(&self.0.free).try_acquire_many_owned(u32::try_from(bytes).ok()?).ok()
    }

    /// How many bytes each active reader may buffer.
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
