//! What is known of the bytes of stored blobs: which version of an object was verified, and which is corrupt.
//!
//! A version is an ETag, so whatever is written anew, by whomever, is unknown again. Kept in memory alone:
//! manifests carry what others need to know (see `vouch`), and a corrupt blob is found again.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::lru::Recent;
use crate::cache::layout;
use crate::types::{Crc64, Digest, ETag, Scope};

/// Blobs that are remembered; about 200 bytes each.
const MAX_BLOBS: usize = 1 << 16;

/// How far the bytes of one version are known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cache) enum Standing {
    /// They have another digest than the one they are stored under.
    Corrupt,
    /// They came with another checksum than they had: in the store, on the way or in a manifest something is wrong.
    Doubted,
    /// A manifest says that they were verified, and what checksum they had.
    Vouched(Option<Crc64>),
    /// This process wrote them, or read all of them.
    Verified(Crc64),
}

impl Standing {
    /// Whether they are what they should be.
    pub(in crate::cache) fn is_good(&self) -> bool {
        matches!(self, Self::Vouched(_) | Self::Verified(_))
    }

    /// Their checksum, where they are good and it is known.
    pub(in crate::cache) fn crc(self) -> Option<Crc64> {
        match self {
            Self::Vouched(crc) => crc,
            Self::Verified(crc) => Some(crc),
            Self::Corrupt | Self::Doubted => None,
        }
    }
}

/// The last version of each blob that something is known of. Bounded: the least recently used are forgotten.
#[derive(Debug)]
pub(in crate::cache) struct Versions(Mutex<Recent<(ETag, Standing)>>);

impl Default for Versions {
    fn default() -> Self {
        Self(Mutex::new(Recent::new(MAX_BLOBS)))
    }
}

impl Versions {
    /// What is known of this version.
    pub(in crate::cache) fn standing(&self, scope: &Scope, digest: &Digest, etag: &ETag) -> Option<Standing> {
        let (known, standing) = self.recent().get(&layout::place(scope, digest))?;
        (known == *etag).then_some(standing)
    }

    /// Takes note of what was found of a version. Whether it is news.
    pub(in crate::cache) fn found(&self, scope: &Scope, digest: &Digest, etag: &ETag, standing: Standing) -> bool {
        let (mut recent, place) = (self.recent(), layout::place(scope, digest));
        let before = recent.get(&place).filter(|(known, _)| known == etag).map(|(_, standing)| standing);
        let news = match standing {
            // What this process saw with its own eyes stands against hearsay.
            Standing::Vouched(crc) => before.is_none() || before == Some(Standing::Vouched(None)) && crc.is_some(),
            seen => before != Some(seen),
        };
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
    use crate::types::Hasher;

    #[test]
    fn a_standing_is_that_of_one_version_and_hearsay_changes_none() {
        let (versions, digest) = (Versions::default(), Digest::of(b"x"));
        let scope = Scope::new("bucket".parse().unwrap(), "").unwrap();
        let (bad, good) = (ETag::new("bad"), ETag::new("good"));
        let (hearsay, sums) = (Standing::Vouched(None), Hasher::default().finish());
        let (more, seen) = (Standing::Vouched(Some(sums.crc)), Standing::Verified(sums.crc));
        assert!(versions.found(&scope, &digest, &bad, Standing::Corrupt));
        assert!(!versions.found(&scope, &digest, &bad, Standing::Corrupt));
        assert!(!versions.found(&scope, &digest, &bad, more));
        assert_eq!(versions.standing(&scope, &digest, &bad), Some(Standing::Corrupt));
        assert_eq!(versions.standing(&scope, &digest, &good), None);
        assert!(versions.found(&scope, &digest, &good, hearsay));
        assert!(versions.found(&scope, &digest, &good, more));
        assert!(!versions.found(&scope, &digest, &good, hearsay));
        assert!(versions.found(&scope, &digest, &good, Standing::Doubted));
        assert!(!versions.found(&scope, &digest, &good, more));
        assert!(versions.found(&scope, &digest, &good, seen));
        assert!(!versions.found(&scope, &digest, &good, more));
        assert_eq!(versions.standing(&scope, &digest, &good), Some(seen));
    }
}
