//! The builds that run now, and which of them ran beside which.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::types::{Promises, Usage};

/// One registration of a build. BuildKit's ref alone would not do: a client may use one twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct BuildId(u64);

#[derive(Debug, Default)]
pub(super) struct Builds {
    next: u64,
    running: BTreeMap<BuildId, Running>,
    /// Builds that are over, with those that ran beside them and still run.
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

    /// Ends a build and returns the builds whose grants nobody can be using from now on.
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
