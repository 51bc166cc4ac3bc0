//! What goes on beside the calls, until the process begins to end.
//!
//! In: touches that builds have left for later, and the entries of the journal. Out: younger blobs, and blobs and manifests
//! in their stores.

mod do_touches;
mod finish_journal;

use std::sync::Arc;

use self::finish_journal::JournalFinish;
use super::journal::Journal;
use super::manifests::Manifests;
use super::write::Writes;
use crate::shutdown::Shutdown;

/// The background tasks of a cache. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Background {
    journal: Option<Journal>,
    writes: Arc<Writes>,
    manifests: Arc<Manifests>,
}

impl Background {
    pub(super) fn new(journal: Option<Journal>, writes: Arc<Writes>, manifests: Arc<Manifests>) -> Self {
        Self { journal, writes, manifests }
    }

    /// Does the touches that were left for later, until the process begins to end.
    pub async fn touch(self, shutdown: Shutdown) {
        do_touches::run(self.writes.touches(), &shutdown).await;
    }

    /// Finishes what exports left in the journal, until the process begins to end. The next start goes on.
    pub async fn finish_journal(self, shutdown: Shutdown) {
        let Some(journal) = &self.journal else { return };
        JournalFinish { journal, writes: &self.writes, manifests: &self.manifests }.run(&shutdown).await;
    }
}
