//! Locks by name. Whoever holds one keeps out those who want the same name, and at times those who want another.

use std::hash::{BuildHasher, Hash, RandomState};

use tokio::sync::{Mutex, MutexGuard};

/// Locks that all names share.
const LOCKS: usize = 64;

/// A fixed number of locks that all names share.
#[derive(Debug)]
pub(super) struct Locks {
    locks: [Mutex<()>; LOCKS],
    hasher: RandomState,
}

impl Default for Locks {
    fn default() -> Self {
        Self { locks: std::array::from_fn(|_| Mutex::default()), hasher: RandomState::new() }
    }
}

impl Locks {
    pub(super) async fn lock(&self, name: impl Hash) -> MutexGuard<'_, ()> {
        let index = usize::try_from(self.hasher.hash_one(name) % LOCKS as u64).unwrap_or_default();
        self.locks[index].lock().await
    }
}
