//! What becomes of the `type=s3` entries of a call.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::endpoints::control::admission::Admission;
use crate::endpoints::control::builds::Build;
use crate::endpoints::control::options::{CacheEntry, Decision, FoundEntry, Refusal, Target};
use crate::endpoints::control::session::SessionEntries;
use crate::endpoints::control::transports::{Route, Router, relay};
use crate::store::Stores;
use crate::types::Durability;

/// How long a call is held back for its cache at most. buildkitd waits 3 s (for gateway calls) or 6 s (for `Status`)
/// until the `Control/Solve` of their build is there, and then fails them with "no such job".
const HELD_BACK: Duration = Duration::from_millis(2500);

/// Decides what becomes of each entry.
#[derive(Debug)]
pub(crate) struct EntryDecider {
    /// What the operator serves.
    pub(crate) stores: Stores,
    /// When exports are acknowledged that do not say.
    pub(crate) durability: Durability,
    /// Chooses the way of a build's cache.
    pub(crate) router: Arc<Router>,
    /// Knows which sessions are joined.
    pub(crate) admission: Arc<Admission>,
    /// Makes the entries for the session.
    pub(crate) session_entries: SessionEntries,
}

impl EntryDecider {
    /// Decides about each entry of a call. `build` is the one that the call makes or belongs to.
    ///
    /// # Errors
    /// [`Refusal`] of an entry that asks for what is not served.
    pub(super) async fn decide(&self, build: Option<&Build>, entries: &[FoundEntry]) -> Result<Vec<Decision>, Refusal> {
        if build.is_none() && !entries.is_empty() {
            // buildkitd knows no such build either. Whatever happens next, it happens without a cache.
            tracing::warn!("a gateway call of a build that does not run here: its s3 cache is left out");
        }
        let deadline = Instant::now() + HELD_BACK;
        let mut decisions = Vec::with_capacity(entries.len());
        for found in entries {
            let target = Target::read(&found.attrs, found.purpose, &self.stores, self.durability)?;
            let entry = match build {
                Some(build) => self.entry_before(deadline, build, found, &target).await,
                None => None,
            };
            decisions.push(found.becomes(target, entry));
        }
        Ok(decisions)
    }

    async fn entry_before(&self, deadline: Instant, build: &Build, found: &FoundEntry, target: &Target) -> Option<CacheEntry> {
        tokio::time::timeout_at(deadline, self.entry(build, found, target)).await.unwrap_or_else(|_| {
            tracing::warn!(build.ref = build.reference(), "an s3 cache entry is left out: what it needs took longer than {HELD_BACK:?}");
            None
        })
    }

    /// What takes the place of an entry, by the way that the build's cache goes. `None`: it is left out.
    async fn entry(&self, build: &Build, found: &FoundEntry, target: &Target) -> Option<CacheEntry> {
        let request = target.grant_request(found.purpose);
        match build.route(Box::pin(self.router.choose(build.reference()))).await {
            Route::Relay(url) => Some(relay::rewrite(&found.attrs, target, url, &build.grant(&request)?)),
            Route::Session if self.admission.wait_until_joined(build.session()).await => {
                let grant = build.session_grant(&request, self.session_entries.max_document_bytes())?;
                let entry = self.session_entries.entry(build.session_caches(), grant, found.purpose, &found.attrs, target);
                Box::pin(entry).await
            }
            Route::Session => {
                tracing::warn!(build.ref = build.reference(), "an s3 cache entry is left out: the build's session began before it was needed");
                None
            }
        }
    }
}
