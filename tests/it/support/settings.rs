//! Bounds of a cache that fit most tests.

use std::path::PathBuf;
use std::time::Duration;

use remora::cache::Settings;

/// Small bounds, without merging and without a disk cache. A test that is about one of them sets it.
pub(crate) fn settings(spool_dir: impl Into<PathBuf>) -> Settings {
    Settings {
        spool_dir: spool_dir.into(),
        journal_dir: None,
        max_manifest_bytes: 1 << 20,
        max_open_ingests: 4,
        ingest_expiry: Duration::from_secs(3600),
        presence_max_age: Duration::from_secs(600),
        lookup_interval: Duration::from_millis(500),
        merge: None,
        transfer_memory: 32 << 20,
        upload_memory: 64 << 20,
        max_spool_bytes: 1 << 30,
        disk: None,
    }
}
