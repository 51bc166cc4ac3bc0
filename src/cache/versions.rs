//! What is known of the bytes of stored blobs: which version of an object was verified, and which is corrupt.
//!
//! A version is an ETag, so whatever is written anew, by whomever, is unknown again. Kept in memory alone:
//! manifests carry what others need to know (see `vouch`), and a corrupt blob is found again.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::layout;
use super::recent::Recent;
use crate::types::{Digest, ETag, Scope};

/// Blobs that are remembered; about 200 bytes each.
const MAX_BLOBS: usize = 1 << 16;

/// How far the bytes of one version are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    /// They have another digest than the one they are stored under.
    Corrupt,
    /// A manifest says that they were verified.
    Vouched,
    /// This process wrote them, or read all of them.
    Verified,
}

/// The last version of each blob that something is known of. Bounded: the least recently used are forgotten.
#[derive(Debug)]
pub(super) struct Versions(Mutex<Recent<(ETag, Standing)>>);

impl Default for Versions {
    fn default() -> Self {
        Self(Mutex::new(Recent::new(MAX_BLOBS)))
    }
}

impl Versions {
    /// What is known of this version.
    pub(super) fn standing(&self, scope: &Scope, digest: &Digest, etag: &ETag) -> Option<Standing> {
        let (known, standing) = self.recent().get(&layout::place(scope, digest))?;
        (known == *etag).then_some(standing)
    }

    /// Takes note of what was found of a version. Whether it is news.
    pub(super) fn found(&self, scope: &Scope, digest: &Digest, etag: &ETag, standing: Standing) -> bool {
        let (mut recent, place) = (self.recent(), layout::place(scope, digest));
        let before = recent.get(&place).filter(|(known, _)| known == etag).map(|(_, standing)| standing);
        // What this process saw with its own eyes stands against hearsay.
        let news = before != Some(standing) && (standing != Standing::Vouched || before.is_none());
        if news {
            recent.insert(place, (etag.clone(), standing));
        }
        news
    }

    fn recent(&self) -> MutexGuard<'_, Recent<(ETag, Standing)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_standing_is_that_of_one_version_and_hearsay_changes_none() {
        let (versions, digest) = (Versions::default(), Digest::of(b"x"));
        let scope = Scope::new("bucket".parse().unwrap(), "").unwrap();
        let (bad, good) = (ETag::new("bad"), ETag::new("good"));
        assert!(versions.found(&scope, &digest, &bad, Standing::Corrupt));
        assert!(!versions.found(&scope, &digest, &bad, Standing::Corrupt));
        assert!(!versions.found(&scope, &digest, &bad, Standing::Vouched));
        assert_eq!(versions.standing(&scope, &digest, &bad), Some(Standing::Corrupt));
        assert_eq!(versions.standing(&scope, &digest, &good), None);
        assert!(versions.found(&scope, &digest, &good, Standing::Vouched));
        assert!(versions.found(&scope, &digest, &good, Standing::Verified));
        assert!(!versions.found(&scope, &digest, &good, Standing::Vouched));
        assert_eq!(versions.standing(&scope, &digest, &good), Some(Standing::Verified));
    }
}
