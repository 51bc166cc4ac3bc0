//! What this process knows of stored blobs: which are present, and how far their bytes are trusted.
//!
//! In: what any room learns from a store about a blob. Out: answers without a call of the store, for builds that ask
//! before they write; and lookups of many blobs at once (`bulk_lookup`). What a manifest promises is asked of the store
//! again, because others may delete blobs without telling us. Absence is not remembered: it ends with the next export.
//! Nothing outlives the process, and everything is bounded: the least recently used is forgotten.

mod bulk_lookup;
mod hits;
mod lru;
mod trust;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use time::OffsetDateTime;

use super::layout;
use crate::store::Meta;
use crate::types::{Crc64, Digest, ETag, ManifestName, Scope};

pub(super) use self::bulk_lookup::Absent;
pub(super) use self::hits::Hits;
pub(super) use self::lru::Lru;
pub(super) use self::trust::Trust;

/// Blobs that are remembered; about 450 bytes each.
const MAX_BLOBS: usize = 1 << 16;
/// Scopes and manifests that are remembered.
const MAX_SCOPES: usize = 1 << 10;

/// What is known. Cheap to clone; clones are one and the same.
#[derive(Debug, Clone)]
pub(super) struct Known(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// How long it is remembered that a blob is present.
    max_age: Duration,
    /// How long a blob that was seen is not looked up again.
    lookup_interval: Duration,
    blobs: Mutex<Lru<Blob>>,
    scopes: Mutex<Scopes>,
}

/// What is known of one blob.
#[derive(Debug, Default)]
struct Blob {
    present: Option<Present>,
    /// The last version that something is known of.
    trust: Option<(ETag, Trust)>,
}

#[derive(Debug)]
struct Present {
    meta: Meta,
    /// When the store said so.
    at: Instant,
}

#[derive(Debug, Default)]
struct Scopes {
    /// About how many blobs each scope has.
    sizes: HashMap<String, (f64, Instant)>,
    /// When all blobs of a manifest were last looked up.
    bulk_lookups: HashMap<String, Instant>,
}

impl Known {
    /// Nothing is known yet. That a blob is present is remembered for `max_age`, and a bulk lookup asks for no blob that
    /// was seen within `lookup_interval`.
    pub(super) fn new(max_age: Duration, lookup_interval: Duration) -> Self {
        let blobs = Mutex::new(Lru::new(MAX_BLOBS));
        Self(Arc::new(Inner { max_age, lookup_interval, blobs, scopes: Mutex::default() }))
    }

    /// Records that a store has a blob. Returns whether the blob counts as present: a corrupt version does not.
    pub(super) fn record_present(&self, scope: &Scope, digest: &Digest, meta: Meta) -> bool {
        self.change(scope, digest, |blob| {
            let is_corrupt = blob.trust_in(&meta.etag) == Some(Trust::Corrupt);
            blob.present = (!is_corrupt).then(|| Present { meta, at: Instant::now() });
            !is_corrupt
        })
    }

    /// Records that a blob was just stored, with these bytes.
    pub(super) fn record_written(&self, scope: &Scope, digest: &Digest, meta: Meta, crc: Crc64) {
        self.change(scope, digest, |blob| {
            blob.trust = Some((meta.etag.clone(), Trust::Verified(crc)));
            blob.present = Some(Present { meta, at: Instant::now() });
        });
    }

    /// Records that a blob is not there, or may not be.
    pub(super) fn record_absent(&self, scope: &Scope, digest: &Digest) {
        if let Some(blob) = self.blobs().get(&layout::blob_place(scope, digest)) {
            blob.present = None;
        }
    }

    /// Records that a blob is young again. This is no proof that it is present, so it is not remembered any longer.
    pub(super) fn record_touched(&self, scope: &Scope, digest: &Digest, modified: OffsetDateTime) {
        if let Some(present) = self.blobs().get(&layout::blob_place(scope, digest)).and_then(|blob| blob.present.as_mut()) {
            present.meta.modified = modified;
        }
    }

    /// Records how far the bytes of a version are trusted. Returns whether that is news. A blob that is found corrupt does
    /// not count as present any more.
    pub(super) fn record_trust(&self, scope: &Scope, digest: &Digest, etag: &ETag, trust: Trust) -> bool {
        self.change(scope, digest, |blob| {
            if trust == Trust::Corrupt {
                blob.present = None;
            }
            let is_news = trust.adds_to(blob.trust_in(etag));
            if is_news {
                blob.trust = Some((etag.clone(), trust));
            }
            is_news
        })
    }

    /// A blob that was seen lately.
    pub(super) fn recall(&self, scope: &Scope, digest: &Digest) -> Option<Meta> {
        self.recall_within(scope, digest, self.0.max_age)
    }

    /// A blob that was seen within the lookup interval.
    fn recall_looked_up(&self, scope: &Scope, digest: &Digest) -> Option<Meta> {
        self.recall_within(scope, digest, self.0.lookup_interval.min(self.0.max_age))
    }

    fn recall_within(&self, scope: &Scope, digest: &Digest, age: Duration) -> Option<Meta> {
        let mut blobs = self.blobs();
        let present = blobs.get(&layout::blob_place(scope, digest))?.present.as_ref()?;
        (present.at.elapsed() < age).then(|| present.meta.clone())
    }

    /// What was last seen of a blob, however long ago: for what was looked up just now.
    pub(super) fn last(&self, scope: &Scope, digest: &Digest) -> Option<Meta> {
        let mut blobs = self.blobs();
        let present = blobs.get(&layout::blob_place(scope, digest))?.present.as_ref()?;
        Some(present.meta.clone())
    }

    /// How far the bytes of this version are trusted.
    pub(super) fn trust(&self, scope: &Scope, digest: &Digest, etag: &ETag) -> Option<Trust> {
        self.blobs().get(&layout::blob_place(scope, digest))?.trust_in(etag)
    }

    /// Records that all blobs of a manifest are looked up at once now. Returns whether that was due: it is when what an earlier
    /// bulk lookup found is too old to be remembered.
    pub(super) fn begin_bulk_lookup(&self, scope: &Scope, name: &ManifestName) -> bool {
        let mut scopes = self.scopes();
        if scopes.bulk_lookups.len() >= MAX_SCOPES {
            scopes.bulk_lookups.clear();
        }
        let before = scopes.bulk_lookups.insert(layout::manifest_place(scope, name), Instant::now());
        before.is_none_or(|before| before.elapsed() >= self.0.max_age)
    }

    /// Records about how many blobs a scope has, as a listing shows it.
    fn record_scope_size(&self, scope: &Scope, blobs: f64) {
        let mut scopes = self.scopes();
        if scopes.sizes.len() >= MAX_SCOPES {
            scopes.sizes.clear();
        }
        scopes.sizes.insert(layout::blobs_place(scope), (blobs, Instant::now()));
    }

    /// About how many blobs a scope has, where a listing was seen lately.
    fn scope_size(&self, scope: &Scope) -> Option<f64> {
        let (blobs, at) = *self.scopes().sizes.get(&layout::blobs_place(scope))?;
        (at.elapsed() < self.0.max_age).then_some(blobs)
    }

    fn change<T>(&self, scope: &Scope, digest: &Digest, change: impl FnOnce(&mut Blob) -> T) -> T {
        let place = layout::blob_place(scope, digest);
        let mut blobs = self.blobs();
        if let Some(blob) = blobs.get(&place) {
            return change(blob);
        }
        let mut blob = Blob::default();
        let changed = change(&mut blob);
        blobs.insert(place, blob);
        changed
    }

    fn blobs(&self) -> MutexGuard<'_, Lru<Blob>> {
        self.0.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn scopes(&self) -> MutexGuard<'_, Scopes> {
        self.0.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Blob {
    fn trust_in(&self, etag: &ETag) -> Option<Trust> {
        let (version, trust) = self.trust.as_ref()?;
        (version == etag).then_some(*trust)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Hasher;

    const AGE: Duration = Duration::from_secs(600);

    fn scope(prefix: &str) -> Scope {
        Scope::new("bucket".parse().unwrap(), prefix).unwrap()
    }

    fn meta(etag: &str) -> Meta {
        Meta { size: 1, etag: ETag::new(etag), modified: OffsetDateTime::UNIX_EPOCH }
    }

    #[test]
    fn what_was_seen_is_known_in_its_scope_until_it_is_too_old_or_gone() {
        let (known, digest) = (Known::new(AGE, Duration::ZERO), Digest::of(b"x"));
        assert!(known.record_present(&scope("a/"), &digest, meta("x")));
        assert_eq!(known.recall(&scope("a/"), &digest), Some(meta("x")));
        assert_eq!(known.recall(&scope("b/"), &digest), None);
        assert_eq!(known.recall_looked_up(&scope("a/"), &digest), None);
        known.record_absent(&scope("a/"), &digest);
        assert_eq!(known.recall(&scope("a/"), &digest), None);
        let forgetful = Known::new(Duration::ZERO, AGE);
        forgetful.record_present(&scope(""), &digest, meta("x"));
        assert_eq!(forgetful.recall(&scope(""), &digest), None);
    }

    #[test]
    fn trust_is_that_of_one_version_and_hearsay_changes_none() {
        let (known, digest, scope) = (Known::new(AGE, AGE), Digest::of(b"x"), scope(""));
        let (bad, good) = (ETag::new("bad"), ETag::new("good"));
        let (hearsay, sums) = (Trust::Vouched(None), Hasher::default().finish());
        let (more, seen) = (Trust::Vouched(Some(sums.crc)), Trust::Verified(sums.crc));
        assert!(known.record_trust(&scope, &digest, &bad, Trust::Corrupt));
        assert!(!known.record_trust(&scope, &digest, &bad, Trust::Corrupt));
        assert!(!known.record_trust(&scope, &digest, &bad, more));
        assert_eq!(known.trust(&scope, &digest, &bad), Some(Trust::Corrupt));
        assert_eq!(known.trust(&scope, &digest, &good), None);
        assert!(known.record_trust(&scope, &digest, &good, hearsay));
        assert!(known.record_trust(&scope, &digest, &good, more));
        assert!(!known.record_trust(&scope, &digest, &good, hearsay));
        assert!(known.record_trust(&scope, &digest, &good, Trust::Suspect));
        assert!(!known.record_trust(&scope, &digest, &good, more));
        assert!(known.record_trust(&scope, &digest, &good, seen));
        assert!(!known.record_trust(&scope, &digest, &good, more));
        assert_eq!(known.trust(&scope, &digest, &good), Some(seen));
    }

    #[test]
    fn a_corrupt_version_is_not_present_and_another_one_is() {
        let (known, digest, scope) = (Known::new(AGE, AGE), Digest::of(b"x"), scope(""));
        assert!(known.record_present(&scope, &digest, meta("bad")));
        known.record_trust(&scope, &digest, &ETag::new("bad"), Trust::Corrupt);
        assert_eq!(known.last(&scope, &digest), None);
        assert!(!known.record_present(&scope, &digest, meta("bad")));
        assert_eq!(known.last(&scope, &digest), None);
        assert!(known.record_present(&scope, &digest, meta("good")));
        assert_eq!(known.last(&scope, &digest), Some(meta("good")));
    }
}
