//! The bounds and places that a cache is opened with.

use std::path::PathBuf;
use std::time::Duration;

use super::{DiskSettings, MergeRules};

/// Bounds and places.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where unfinished blobs are kept. Made when missing.
    pub spool_dir: PathBuf,
    /// Where exports are kept that are acknowledged before their store has them. Made when missing. `None`: every export waits
    /// for its store, whatever its grant says.
    pub journal_dir: Option<PathBuf>,
    /// Manifests with more bytes are refused.
    pub max_manifest_bytes: u64,
    /// Ingests that may be open at once. As many uploads may be.
    pub max_open_ingests: usize,
    /// Bytes that all ingests, uploads and the journal may have on disk together.
    pub max_spool_bytes: u64,
    /// An ingest that nobody wrote to for this long is forgotten.
    pub ingest_expiry: Duration,
    /// How long a blob that was seen in the store is taken to be there, when a build asks before it writes.
    pub presence_max_age: Duration,
    /// The blobs that a manifest names are looked up when it is published or imported, except those that were seen within
    /// this time.
    pub lookup_interval: Duration,
    /// How a manifest is merged with the stored one of its name; `None`: it replaces it.
    pub merge: Option<MergeRules>,
    /// Bytes that reads may keep buffered, all together.
    pub transfer_memory: u64,
    /// Bytes of uploads that may be in memory on their way into the stores, all together.
    pub upload_memory: u64,
    /// The disk cache, which keeps what is read on this machine's disk. `None`: every read goes to the store.
    pub disk: Option<DiskSettings>,
}
