//! What a build may lose of its cache, and what it has lost.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

/// Comes with a grant whose caller is to go on when the store fails: then a lookup is a miss, and an export is accepted but
/// dropped as a whole.
#[derive(Debug, Default)]
pub struct Losses {
    export: OnceLock<String>,
    promises: Arc<Promises>,
}

/// What became of the layers that manifests promised to a build. All grants of the build share this.
#[derive(Debug, Default)]
pub struct Promises {
    broken: AtomicBool,
    replayable: AtomicBool,
    export_begun: AtomicBool,
}

impl Losses {
    /// For a grant of the build that `promises` were made to.
    #[must_use]
    pub fn of(promises: Arc<Promises>) -> Self {
        Self { export: OnceLock::new(), promises }
    }

    /// Drops the export. Returns `false` where it was dropped before.
    pub fn drop_export(&self, reason: &str) -> bool {
        self.export.set(reason.to_owned()).is_ok()
    }

    /// Whether the export is dropped.
    #[must_use]
    pub fn has_dropped_export(&self) -> bool {
        self.export.get().is_some()
    }

    /// The promises to the build.
    #[must_use]
    pub fn promises(&self) -> &Promises {
        &self.promises
    }
}

impl Promises {
    /// Records that a promised layer did not come, or not in the time that a build waits for one. What builds on it fails,
    /// so nothing else is waited for any more.
    pub fn break_one(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// Whether a promised layer did not come.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Says whether the build will be run again without its cache (replayed) when a promise is broken.
    pub fn set_replayable(&self, replayable: bool) {
        self.replayable.store(replayable, Ordering::Relaxed);
    }

    /// Whether the build survives a broken promise, because it will be run again without its cache.
    #[must_use]
    pub fn is_replayable(&self) -> bool {
        self.replayable.load(Ordering::Relaxed)
    }

    /// Records that the export of the build's cache has asked for its first layer. Everything else that the build exports
    /// is written by then.
    pub fn begin_export(&self) {
        self.export_begun.store(true, Ordering::Relaxed);
    }

    /// Whether the export of the build's cache has begun.
    #[must_use]
    pub fn has_begun_export(&self) -> bool {
        self.export_begun.load(Ordering::Relaxed)
    }
}
