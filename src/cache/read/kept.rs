//! Reads that are kept open for whoever comes for them next.
//!
//! Each holds a request to a store open, so there are few of them, and a task ends each that nobody has come for in time.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;

use crate::shutdown::Shutdown;

/// Reads that are kept at once. The oldest goes when one more comes.
const MAX_KEPT: usize = 64;
/// A caller that has not come for a read within this time will not come.
const KEPT: Duration = Duration::from_secs(20);

/// Reads by key. Cheap to clone; clones are one and the same.
pub(crate) struct KeptReads<K, R> {
    reads: Arc<Mutex<VecDeque<Kept<K, R>>>>,
    shutdown: Shutdown,
}

struct Kept<K, R> {
    key: K,
    read: R,
    /// Ends the task that watches over the read. It tells this read from others, too.
    watch: oneshot::Sender<()>,
}

impl<K: PartialEq + Send + 'static, R: Send + 'static> KeptReads<K, R> {
    /// Reads that end, at the latest, when the process does.
    pub(in crate::cache) fn new(shutdown: Shutdown) -> Self {
        Self { reads: Arc::default(), shutdown }
    }

    /// Keeps a read from now on.
    pub(crate) fn put(&self, key: K, read: R) {
        let reads = self.reads();
        self.add(reads, key, read);
    }

    /// Begins a read and keeps it, unless there is one of this key.
    pub(in crate::cache) fn put_new(&self, key: K, begin: impl FnOnce() -> R) {
        let reads = self.reads();
        if reads.iter().all(|kept| kept.key != key) {
            self.add(reads, key, begin());
        }
    }

    fn add(&self, mut reads: MutexGuard<'_, VecDeque<Kept<K, R>>>, key: K, read: R) {
        let (watch, mut ended) = oneshot::channel();
        let oldest = if reads.len() >= MAX_KEPT { reads.pop_front() } else { None };
        reads.push_back(Kept { key, read, watch });
        // What ends with a read may be long: not under the lock.
        drop(reads);
        drop(oldest);
        let reads = Arc::downgrade(&self.reads);
        let shutdown = self.shutdown.clone();
        self.shutdown.spawn(async move {
            tokio::select! {
                _ = &mut ended => return,
                () = tokio::time::sleep(KEPT) => {}
                () = shutdown.closing() => {}
            }
            ended.close();
            if let Some(reads) = reads.upgrade() {
                reads.lock().unwrap_or_else(PoisonError::into_inner).retain(|kept| !kept.watch.is_closed());
            }
        });
    }

    /// Takes a read, if there is one.
    pub(crate) fn take(&self, key: &K) -> Option<R> {
        let mut reads = self.reads();
        let at = reads.iter().position(|kept| kept.key == *key)?;
        reads.remove(at).map(|kept| kept.read)
    }

    /// Whether there is such a read.
    pub(in crate::cache) fn contains(&self, key: &K) -> bool {
        self.reads().iter().any(|kept| kept.key == *key)
    }

    fn reads(&self) -> MutexGuard<'_, VecDeque<Kept<K, R>>> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K, R> Clone for KeptReads<K, R> {
    fn clone(&self) -> Self {
        Self { reads: Arc::clone(&self.reads), shutdown: self.shutdown.clone() }
    }
}

impl<K, R> std::fmt::Debug for KeptReads<K, R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeptReads").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_read_is_kept_for_its_time_and_ends_by_itself() {
        let shutdown = Shutdown::default();
        let reads = KeptReads::new(shutdown.clone());
        let (read, read_ended) = oneshot::channel::<()>();
        reads.put(7, read);
        tokio::time::sleep(KEPT / 2).await;
        assert!(reads.contains(&7) && !reads.contains(&8) && shutdown.tasks() == 1);
        // Nobody calls: it is the task that ends the read.
        read_ended.await.unwrap_err();
        assert!(!reads.contains(&7));
    }

    #[tokio::test(start_paused = true)]
    async fn a_read_that_is_taken_is_kept_anew_from_then_on() {
        let shutdown = Shutdown::default();
        let reads = KeptReads::new(shutdown.clone());
        reads.put(7, "read");
        tokio::time::sleep(KEPT / 2).await;
        let read = reads.take(&7).unwrap();
        reads.put(7, read);
        tokio::time::sleep(KEPT * 3 / 4).await;
        assert_eq!((reads.take(&7), reads.take(&7)), (Some("read"), None));
        tokio::time::sleep(Duration::from_millis(1)).await;
        assert_eq!(shutdown.tasks(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn the_oldest_makes_room() {
        let reads = KeptReads::new(Shutdown::default());
        (0..=MAX_KEPT).for_each(|read| reads.put(read, ()));
        assert!(!reads.contains(&0) && reads.contains(&1) && reads.contains(&MAX_KEPT));
    }
}
