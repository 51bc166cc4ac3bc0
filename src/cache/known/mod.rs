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

/// Blobs that are remembered as present, and as many whose bytes something is known of; about 250 bytes each.
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
    blobs: Mutex<Blobs>,
    scopes: Mutex<Scopes>,
}

/// What is known of blobs, by their places. Each half has a bound of its own: a listing says of thousands of blobs that
/// they are present, and must not push out which versions are corrupt.
#[derive(Debug)]
struct Blobs {
    present: Lru<Present>,
    /// The last version of each that something is known of.
    trust: Lru<(ETag, Trust)>,
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
        let blobs = Mutex::new(Blobs { present: Lru::new(MAX_BLOBS), trust: Lru::new(MAX_BLOBS) });
        Self(Arc::new(Inner { max_age, lookup_interval, blobs, scopes: Mutex::default() }))
    }

    /// Records that a store has a blob. Returns whether the blob counts as present: a corrupt version does not.
    pub(super) fn record_present(&self, scope: &Scope, digest: &Digest, meta: Meta) -> bool {
        let place = layout::blob_place(scope, digest);
        let mut blobs = self.blobs();
        let is_corrupt = blobs.trust_in(&place, &meta.etag) == Some(Trust::Corrupt);
        if is_corrupt {
            blobs.present.remove(&place);
        } else {
            blobs.present.insert(place, Present { meta, at: Instant::now() });
        }
        !is_corrupt
    }

    /// Records that a blob was just stored, with these bytes.
    pub(super) fn record_written(&self, scope: &Scope, digest: &Digest, meta: Meta, crc: Crc64) {
        let place = layout::blob_place(scope, digest);
        let mut blobs = self.blobs();
        blobs.trust.insert(place.clone(), (meta.etag.clone(), Trust::Verified(crc)));
        blobs.present.insert(place, Present { meta, at: Instant::now() });
    }

    /// Records that a blob is not there, or may not be.
    pub(super) fn record_absent(&self, scope: &Scope, digest: &Digest) {
        self.blobs().present.remove(&layout::blob_place(scope, digest));
    }

    /// Records that a blob is young again. This is no proof that it is present, so it is not remembered any longer.
    pub(super) fn record_touched(&self, scope: &Scope, digest: &Digest, modified: OffsetDateTime) {
        if let Some(present) = self.blobs().present.get(&layout::blob_place(scope, digest)) {
            present.meta.modified = modified;
        }
    }

    /// Records how far the bytes of a version are trusted. Returns whether that is news. A blob that is found corrupt does
    /// not count as present any more.
    pub(super) fn record_trust(&self, scope: &Scope, digest: &Digest, etag: &ETag, trust: Trust) -> bool {
        let place = layout::blob_place(scope, digest);
        let mut blobs = self.blobs();
        if trust == Trust::Corrupt {
            blobs.present.remove(&place);
        }
        let is_news = trust.adds_to(blobs.trust_in(&place, etag));
        if is_news {
            blobs.trust.insert(place, (etag.clone(), trust));
        }
        is_news
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
        let present = blobs.present.get(&layout::blob_place(scope, digest))?;
        (present.at.elapsed() < age).then(|| present.meta.clone())
    }

    /// What was last seen of a blob, however long ago: for what was looked up just now.
    pub(super) fn last(&self, scope: &Scope, digest: &Digest) -> Option<Meta> {
        let mut blobs = self.blobs();
        let present = blobs.present.get(&layout::blob_place(scope, digest))?;
        Some(present.meta.clone())
    }

    /// How far the bytes of this version are trusted.
    pub(super) fn trust(&self, scope: &Scope, digest: &Digest, etag: &ETag) -> Option<Trust> {
        self.blobs().trust_in(&layout::blob_place(scope, digest), etag)
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

    fn blobs(&self) -> MutexGuard<'_, Blobs> {
        self.0.blobs.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn scopes(&self) -> MutexGuard<'_, Scopes> {
        self.0.scopes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Blobs {
    fn trust_in(&mut self, place: &str, etag: &ETag) -> Option<Trust> {
        let (version, trust) = self.trust.get(place)?;
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

    #[test]
    fn a_listing_of_many_blobs_lifts_no_quarantine() {
        let (known, digest, scope) = (Known::new(AGE, AGE), Digest::of(b"x"), scope(""));
        known.record_trust(&scope, &digest, &ETag::new("bad"), Trust::Corrupt);
        for index in 0..2 * MAX_BLOBS {
            known.record_present(&scope, &Digest::of(&index.to_le_bytes()), meta("listed"));
        }
        assert!(!known.record_present(&scope, &digest, meta("bad")));
    }
}
