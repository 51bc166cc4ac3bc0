//! What a build was promised, and whether it came.

use std::sync::atomic::{AtomicBool, Ordering};

/// What became of the layers that manifests promised to a build. All grants of the build share this.
#[derive(Debug, Default)]
pub struct Promises {
    broken: AtomicBool,
    replayable: AtomicBool,
    export_begun: AtomicBool,
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
