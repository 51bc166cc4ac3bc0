//! Hits: the blobs of a manifest that imports have read, until the next export of its name writes that down.
//!
//! A read is remembered here and costs no write. So only this remora knows of it, and only until its next start.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::lru::Lru;
use crate::cache::layout;
use crate::types::{Digest, ManifestName, Scope};

/// Manifests that are remembered.
const MAX_MANIFESTS: usize = 1 << 10;
/// Blobs of each. Of a manifest that has more, most results are used anyway.
const MAX_BLOBS: usize = 1 << 12;

/// The reads since the last export of each name. The least recently used names are forgotten. Cheap to clone; clones
/// are one and the same.
#[derive(Debug, Clone)]
pub(in crate::cache) struct Hits(Arc<Mutex<Lru<BTreeSet<Digest>>>>);

impl Default for Hits {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Lru::new(MAX_MANIFESTS))))
    }
}

impl Hits {
    /// Records that a build that imported `name` reads one of its blobs.
    pub(in crate::cache) fn record_read(&self, scope: &Scope, name: &ManifestName, blob: Digest) {
        let place = layout::manifest_place(scope, name);
        let mut hits = self.hits();
        if let Some(blobs) = hits.get(&place) {
            if blobs.len() < MAX_BLOBS {
                blobs.insert(blob);
            }
        } else {
            hits.insert(place, BTreeSet::from([blob]));
        }
    }

    /// What was read of `name`.
    pub(in crate::cache) fn of(&self, scope: &Scope, name: &ManifestName) -> BTreeSet<Digest> {
        self.hits().get(&layout::manifest_place(scope, name)).cloned().unwrap_or_default()
    }

    /// Records that these hits are written down.
    pub(in crate::cache) fn record_written(&self, scope: &Scope, name: &ManifestName, blobs: &BTreeSet<Digest>) {
        let place = layout::manifest_place(scope, name);
        let mut hits = self.hits();
        let Some(left) = hits.get(&place) else { return };
        left.retain(|blob| !blobs.contains(blob));
        if left.is_empty() {
            hits.remove(&place);
        }
    }

    fn hits(&self) -> MutexGuard<'_, Lru<BTreeSet<Digest>>> {
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
        hits.record_read(&scope, &one, a);
        let seen = hits.of(&scope, &one);
        assert_eq!((seen.len(), hits.of(&scope, &two).len()), (1, 0));
        hits.record_read(&scope, &one, b);
        hits.record_written(&scope, &one, &seen);
        assert_eq!(hits.of(&scope, &one), BTreeSet::from([b]));
        hits.record_written(&scope, &one, &BTreeSet::from([b]));
        assert!(hits.of(&scope, &one).is_empty());
    }
}
