//! What is under way and what it takes up, for `remora status`.

use serde::{Deserialize, Serialize};

use super::{Cache, JournalStatus};

/// What is under way now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CacheStatus {
    /// Ingests that are open or were left.
    pub ingests: usize,
    /// Multipart uploads that are open.
    pub uploads: usize,
    /// The bytes of both on disk, and those of the journal.
    pub spool: SpoolStatus,
    /// What is acknowledged and not in the store yet.
    pub journal: JournalStatus,
}

/// How full the spool is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SpoolStatus {
    /// Bytes in it.
    pub bytes: u64,
    /// Bytes that it may have.
    pub max_bytes: u64,
}

impl Cache {
    /// What is under way now.
    #[must_use]
    pub fn status(&self) -> CacheStatus {
        CacheStatus {
            ingests: self.0.ingests.count(),
            uploads: self.0.uploads.count(),
            spool: SpoolStatus { bytes: self.0.spool.used(), max_bytes: self.settings().max_spool_bytes },
            journal: self.0.journal.as_ref().map(super::journal::Journal::status).unwrap_or_default(),
        }
    }
}
