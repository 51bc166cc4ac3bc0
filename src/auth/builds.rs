//! The running builds, and which builds ran at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::types::{Promises, Usage};

/// One registration of a build. BuildKit's ref would not be enough, since a client may use a ref twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct BuildId(u64);

#[derive(Debug, Default)]
pub(super) struct Builds {
    next: u64,
    running: BTreeMap<BuildId, Running>,
    /// Builds that are over, each with the builds that ran at the same time and are still running.
    lingering: BTreeMap<BuildId, BTreeSet<BuildId>>,
}

#[derive(Debug)]
pub(super) struct Running {
    reference: String,
    pub(super) usage: Arc<Usage>,
    pub(super) promises: Arc<Promises>,
}

impl Builds {
    pub(super) fn begin(&mut self, reference: &str) -> BuildId {
        let id = BuildId(self.next);
        self.next += 1;
        self.running.insert(id, Running { reference: reference.to_owned(), usage: Arc::default(), promises: Arc::default() });
        id
    }

    pub(super) fn find(&self, reference: &str) -> Option<(BuildId, &Running)> {
        self.running.iter().rfind(|(_, build)| build.reference == reference).map(|(id, build)| (*id, build))
    }

    /// Ends a build. Returns the builds whose grants nobody can be using any more.
    pub(super) fn end(&mut self, id: BuildId) -> Vec<BuildId> {
        if self.running.remove(&id).is_none() {
            return Vec::new();
        }
        self.lingering.insert(id, self.running.keys().copied().collect());
        for beside in self.lingering.values_mut() {
            beside.remove(&id);
        }
        self.lingering.extract_if(.., |_, beside| beside.is_empty()).map(|(id, _)| id).collect()
    }
}
