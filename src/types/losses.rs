//! What a build may lose of its cache, and what it has lost.

use std::sync::{Arc, OnceLock};

use super::Promises;

/// Comes with a grant whose caller is to go on when the store fails: then a lookup is a miss, and an export is accepted but
/// dropped as a whole.
#[derive(Debug, Default)]
pub struct Losses {
    export: OnceLock<String>,
    promises: Arc<Promises>,
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
