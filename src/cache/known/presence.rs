//! What this process knows of stored blobs: present with which size and version, and seen when.
//!
//! Whatever touches a blob in the store reports here. What is remembered answers the questions of builds
//! that ask before they write; what a manifest promises is asked of the store again (see `lookup`), because
//! others may delete blobs behind our back. Absence is not remembered: it ends with the next export.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::lru::Recent;
use crate::cache::layout;
use crate::store::Meta;
use crate::types::{Digest, Scope};

/// Blobs that are remembered; about 250 bytes each.
const MAX_BLOBS: usize = 1 << 16;
/// Scopes and manifests that are remembered.
const MAX_SCOPES: usize = 1 << 10;

/// What is known of blobs. Bounded: the least recently used are forgotten.
#[derive(Debug)]
pub(in crate::cache) struct Presence {
    max_age: Duration,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    blobs: Recent<Seen>,
    /// About how many blobs each scope has.
    sizes: HashMap<String, (f64, Instant)>,
    /// Manifests whose blobs were looked up, and when.
    ahead: HashMap<String, Instant>,
}

#[derive(Debug, Clone)]
struct Seen {
    meta: Meta,
    at: Instant,
}

impl Presence {
    /// Nothing is known yet; later, nothing for longer than `max_age`.
    pub(in crate::cache) fn new(max_age: Duration) -> Self {
        let state = State { blobs: Recent::new(MAX_BLOBS), sizes: HashMap::new(), ahead: HashMap::new() };
        Self { max_age, state: Mutex::new(state) }
    }

    /// A blob is there.
    pub(in crate::cache) fn saw(&self, scope: &Scope, digest: &Digest, meta: Meta) {
        self.state().blobs.insert(layout::place(scope, digest), Seen { meta, at: Instant::now() });
    }

    /// A blob is not there, or may not be.
    pub(in crate::cache) fn forget(&self, scope: &Scope, digest: &Digest) {
        self.state().blobs.remove(&layout::place(scope, digest));
    }

    /// A blob is young again. That it is there is not seen by that.
    pub(in crate::cache) fn renewed(&self, scope: &Scope, digest: &Digest, modified: OffsetDateTime) {
        if let Some(seen) = self.state().blobs.get_mut(&layout::place(scope, digest)) {
            seen.meta.modified = modified;
        }
    }

    /// What is remembered of a blob.
    pub(in crate::cache) fn recall(&self, scope: &Scope, digest: &Digest) -> Option<Meta> {
        self.recall_within(scope, digest, self.max_age)
    }

    /// The same, where it was seen within `age`.
    pub(in crate::cache) fn recall_within(&self, scope: &Scope, digest: &Digest, age: Duration) -> Option<Meta> {
        let seen = self.state().blobs.get(&layout::place(scope, digest))?;
        (seen.at.elapsed() < age.min(self.max_age)).then_some(seen.meta)
    }

    /// What was last seen of a blob, however long ago: for what was looked up just now.
    pub(in crate::cache) fn last(&self, scope: &Scope, digest: &Digest) -> Option<Meta> {
        self.state().blobs.get(&layout::place(scope, digest)).map(|seen| seen.meta)
    }

    /// About how many blobs the scope has, as a listing shows it.
    pub(in crate::cache) fn measured(&self, scope: &Scope, blobs: f64) {
        let mut state = self.state();
        if state.sizes.len() >= MAX_SCOPES {
            state.sizes.clear();
        }
        state.sizes.insert(layout::qualified(scope), (blobs, Instant::now()));
    }

    /// About how many blobs the scope has, where a listing was seen.
    pub(in crate::cache) fn size(&self, scope: &Scope) -> Option<f64> {
        let (blobs, at) = *self.state().sizes.get(&layout::qualified(scope))?;
        (at.elapsed() < self.max_age).then_some(blobs)
    }

    /// Whether it is time to look up all blobs of a manifest, given its key; not for a while after.
    pub(in crate::cache) fn looks_ahead(&self, scope: &Scope, manifest: &str) -> bool {
        let mut state = self.state();
        if state.ahead.len() >= MAX_SCOPES {
            state.ahead.clear();
        }
        let before = state.ahead.insert(format!("{}/{manifest}", scope.bucket()), Instant::now());
        before.is_none_or(|before| before.elapsed() >= self.max_age)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use time::OffsetDateTime;

    use super::*;
    use crate::types::ETag;

    fn scope(prefix: &str) -> Scope {
        Scope::new("bucket".parse().unwrap(), prefix).unwrap()
    }

    fn meta(size: u64) -> Meta {
        Meta { size, etag: ETag::new("x"), modified: OffsetDateTime::UNIX_EPOCH }
    }

    #[test]
    fn what_was_seen_is_known_in_its_scope_until_it_is_too_old_or_gone() {
        let (presence, digest) = (Presence::new(Duration::from_secs(600)), Digest::of(b"x"));
        presence.saw(&scope("a/"), &digest, meta(1));
        assert_eq!(presence.recall(&scope("a/"), &digest), Some(meta(1)));
        assert_eq!(presence.recall(&scope("b/"), &digest), None);
        assert_eq!(presence.recall_within(&scope("a/"), &digest, Duration::ZERO), None);
        presence.forget(&scope("a/"), &digest);
        assert_eq!(presence.recall(&scope("a/"), &digest), None);
        let forgetful = Presence::new(Duration::ZERO);
        forgetful.saw(&scope(""), &digest, meta(1));
        assert_eq!(forgetful.recall(&scope(""), &digest), None);
    }
}
