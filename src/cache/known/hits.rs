//! Which blobs of a manifest imports have read, until the next export of its name writes that down.
//!
//! A read is remembered here and costs no write. So it is known to this remora alone, and until its next start.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::lru::Recent;
use crate::cache::layout;
use crate::types::{Digest, ManifestName, Scope};

/// Manifests that are remembered.
const MAX_MANIFESTS: usize = 1 << 10;
/// Blobs of each. A manifest of more is one whose results are mostly used anyway.
const MAX_BLOBS: usize = 1 << 12;

/// The reads since the last export of each name. Bounded: the least recently used names are forgotten.
#[derive(Debug)]
pub(in crate::cache) struct Hits(Mutex<Recent<BTreeSet<Digest>>>);

impl Default for Hits {
    fn default() -> Self {
        Self(Mutex::new(Recent::new(MAX_MANIFESTS)))
    }
}

impl Hits {
    /// A build that imported `name` reads one of its blobs.
    pub(in crate::cache) fn note(&self, scope: &Scope, name: &ManifestName, blob: Digest) {
        let place = layout::manifest_place(scope, name);
        let mut hits = self.hits();
        if let Some(blobs) = hits.get_mut(&place) {
            if blobs.len() < MAX_BLOBS {
                blobs.insert(blob);
            }
        } else {
            hits.insert(place, BTreeSet::from([blob]));
        }
    }

    /// What was read of `name`.
    pub(in crate::cache) fn of(&self, scope: &Scope, name: &ManifestName) -> BTreeSet<Digest> {
        self.hits().get(&layout::manifest_place(scope, name)).unwrap_or_default()
    }

    /// These hits are written down.
    pub(in crate::cache) fn written(&self, scope: &Scope, name: &ManifestName, blobs: &BTreeSet<Digest>) {
        let place = layout::manifest_place(scope, name);
        let mut hits = self.hits();
        let Some(left) = hits.get_mut(&place) else { return };
        left.retain(|blob| !blobs.contains(blob));
        if left.is_empty() {
            hits.remove(&place);
        }
    }

    fn hits(&self) -> MutexGuard<'_, Recent<BTreeSet<Digest>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hits_are_kept_by_name_until_they_are_written_down() {
        let (hits, scope) = (Hits::default(), Scope::new("bucket".parse().unwrap(), "").unwrap());
        let [one, two]: [ManifestName; 2] = ["one", "two"].map(|name| name.parse().unwrap());
        let [a, b] = ["a", "b"].map(|blob| Digest::of(blob.as_bytes()));
        hits.note(&scope, &one, a);
        let seen = hits.of(&scope, &one);
        assert_eq!((seen.len(), hits.of(&scope, &two).len()), (1, 0));
        hits.note(&scope, &one, b);
        hits.written(&scope, &one, &seen);
        assert_eq!(hits.of(&scope, &one), BTreeSet::from([b]));
        hits.written(&scope, &one, &BTreeSet::from([b]));
        assert!(hits.of(&scope, &one).is_empty());
    }
}
