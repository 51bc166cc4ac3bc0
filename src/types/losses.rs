//! What a build may lose of its cache, and what it has lost.

use std::sync::OnceLock;

/// Comes with a grant whose caller is to go on when the store fails: a lookup is then a miss, and an
/// export is taken and dropped as a whole.
#[derive(Debug, Default)]
pub struct Losses {
    export: OnceLock<String>,
    promise: OnceLock<()>,
}

impl Losses {
    /// Drops the export. Returns whether this is news.
    pub fn drop_export(&self, reason: &str) -> bool {
        self.export.set(reason.to_owned()).is_ok()
    }

    /// A layer that was promised did not come in the time that a build waits for one. It fails by that, and
    /// nothing else is waited for any more.
    pub fn break_promise(&self) {
        self.promise.get_or_init(|| ());
    }

    /// Whether a promised layer did not come.
    #[must_use]
    pub fn has_broken_promise(&self) -> bool {
        self.promise.get().is_some()
    }

    /// Whether the export is dropped.
    #[must_use]
    pub fn has_dropped_export(&self) -> bool {
        self.export.get().is_some()
    }
}
