//! Read-ahead into the disk cache, while the builder unpacks what it has.
//!
//! A fetch that nobody has asked for takes one connection and none of the memory for transfers, and begins only while few
//! fetches are under way. When somebody asks for its blob it becomes like any other. What waits unread is bounded.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::chains::Predictions;
use crate::cache::disk::{Disk, Fill};
use crate::cache::read::bucket::BlobSource;
use crate::cache::read::fetch::Fetcher;
use crate::shutdown::Shutdown;
use crate::transfer::{Budget, Hold};
use crate::types::Grant;

/// Blobs that wait for their fetch; more are not fetched ahead.
const MAX_QUEUED: usize = 256;
/// A build that has not asked within this time needs no help.
const STALE: Duration = Duration::from_secs(60);

/// Fetches blobs into the disk cache: those that are asked for, and those that will be.
#[derive(Debug)]
pub(in crate::cache::read) struct IntoDisk {
    disk: Arc<Disk>,
    fetcher: Fetcher,
    predictions: Predictions,
    queue: Mutex<VecDeque<Expected>>,
    /// Bytes that are fetched and not read.
    budget: Budget,
    shutdown: Shutdown,
}

/// A blob that will be asked for.
#[derive(Debug)]
struct Expected {
    source: BlobSource,
    size: u64,
    since: Instant,
}

impl IntoDisk {
    pub(in crate::cache::read) fn new(disk: Arc<Disk>, fetcher: Fetcher, predictions: Predictions, shutdown: Shutdown) -> Self {
        let budget = Budget::new(disk.settings().read_ahead);
        Self { disk, fetcher, predictions, queue: Mutex::default(), budget, shutdown }
    }

    /// Does the work of a new fill in the background. `hold` is its part of the budget, where nobody has asked for the blob.
    pub(in crate::cache::read) fn fetch(self: &Arc<Self>, fill: Arc<Fill>, source: BlobSource, hold: Option<Hold>) {
        let this = Arc::clone(self);
        self.shutdown.spawn(async move {
            this.fetcher.run(fill, source, hold).await;
            this.fetch_expected();
        });
    }

    /// A blob is being read whole, from the disk or by a fill that is under way: its neighbours will be read, too.
    pub(in crate::cache::read) fn expect_neighbours(self: &Arc<Self>, grant: &Grant, read: &BlobSource) {
        let max = self.disk.settings().read_ahead;
        if max == 0 {
            return;
        }
        let Some(chains) = self.predictions.of(grant) else { return };
        {
            let mut queue = self.queue();
            for (digest, size) in chains.neighbours(&read.digest) {
                let is_queued = queue.iter().any(|expected| expected.source.digest == digest && *expected.source.scope == *read.scope);
                if queue.len() < MAX_QUEUED && !is_queued && size <= max && !self.disk.contains(&digest) {
                    queue.push_back(Expected { source: BlobSource { digest, ..read.clone() }, size, since: Instant::now() });
                }
            }
        }
        self.fetch_expected();
    }

    /// Begins to fetch what is expected, as far as there is room for it.
    fn fetch_expected(self: &Arc<Self>) {
        let most = self.disk.settings().read_ahead_fetches;
        while self.disk.fills.count() < most && !self.shutdown.is_closing() {
            let Some(expected) = self.queue().pop_front() else { return };
            let Expected { source, size, since } = &expected;
            if self.disk.contains(&source.digest) || !self.disk.may_take(*size) || since.elapsed() > STALE {
                continue;
            }
            let Some(hold) = self.budget.try_hold(*size) else {
                // It waits until something is read, or dropped.
                self.queue().push_front(expected);
                return;
            };
            if let Some(fill) = self.disk.fills.begin_read_ahead(&source.place(), &source.digest, most) {
                tracing::debug!(blob.digest = %source.digest, "read-ahead: fetching blob {}", source.digest);
                self.fetch(fill, source.clone(), Some(hold));
            }
        }
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Expected>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
