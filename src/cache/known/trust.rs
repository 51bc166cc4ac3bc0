//! How far the bytes of one version of a stored blob are known to be what they should be.
//!
//! A version is an ETag, so nothing is known of a blob that was written anew, whoever wrote it. Trust is kept in memory
//! alone: manifests carry what other processes need to know (see `manifests/vouch`), and a corrupt blob is found again.

use crate::types::Crc64;

/// What is known of the bytes of one version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::cache) enum Trust {
    /// They have another digest than the one they are stored under.
    Corrupt,
    /// They were read with another checksum than the verified one, so something is wrong in the store, on the way or in
    /// a manifest.
    Suspect,
    /// A manifest says that they were verified, and which checksum they had.
    Vouched(Option<Crc64>),
    /// This process wrote them or read all of them.
    Verified(Crc64),
}

impl Trust {
    /// Whether they are what they should be.
    pub(in crate::cache) fn is_good(&self) -> bool {
        matches!(self, Self::Vouched(_) | Self::Verified(_))
    }

    /// Their checksum, where they are good and it is known.
    pub(in crate::cache) fn crc(self) -> Option<Crc64> {
        match self {
            Self::Vouched(crc) => crc,
            Self::Verified(crc) => Some(crc),
            Self::Corrupt | Self::Suspect => None,
        }
    }

    /// Whether this says more than what was known of the same version. What this process has seen itself is not changed
    /// by what a manifest says.
    pub(super) fn adds_to(self, before: Option<Self>) -> bool {
        match self {
            Self::Vouched(crc) => before.is_none() || before == Some(Self::Vouched(None)) && crc.is_some(),
            seen => before != Some(seen),
        }
    }
}
