//! The build that a grant is for: what the build must be told, may lose, and is counted for. It opens nothing.

use std::sync::Arc;

use crate::types::{Documents, Durability, Losses, Promises, Usage};

/// What the cache has to know of the build that a call is made for. Cheap to clone; clones share what they count.
#[derive(Clone, Debug, Default)]
pub struct BuildContext {
    documents: Option<Arc<Documents>>,
    losses: Option<Arc<Losses>>,
    durability: Durability,
    usage: Arc<Usage>,
}

impl BuildContext {
    pub(super) fn set_documents(&mut self, documents: Arc<Documents>) {
        self.documents = Some(documents);
    }

    pub(super) fn tolerate_losses(&mut self, promises: Arc<Promises>) {
        self.losses = Some(Arc::new(Losses::of(promises)));
    }

    pub(super) fn set_durability(&mut self, durability: Durability) {
        self.durability = durability;
    }

    pub(super) fn set_usage(&mut self, usage: Arc<Usage>) {
        self.usage = usage;
    }

    /// Whether buildkitd reaches the cache through the build's own session. The build's documents are in memory then.
    #[must_use]
    pub fn is_session(&self) -> bool {
        self.documents.is_some()
    }

    /// The documents of the build's session; `None` where the build has its cache by another way.
    #[must_use]
    pub fn documents(&self) -> Option<&Documents> {
        self.documents.as_deref()
    }

    /// What the build may lose when the store fails; `None` where the build gets the error.
    #[must_use]
    pub fn losses(&self) -> Option<&Losses> {
        self.losses.as_deref()
    }

    /// How far a write has to get before it is acknowledged.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// The counters of the build.
    #[must_use]
    pub fn usage(&self) -> &Usage {
        &self.usage
    }
}
