//! Rights: what may be done, and how a refusal reads.

/// One thing that a caller may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Right {
    /// Learn whether an object exists, its size and its age.
    Exists,
    /// Read manifests and blobs.
    Read,
    /// Store blobs and publish manifests.
    Write,
    /// Delete manifests and blobs.
    Delete,
}

/// A set of rights.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rights {
    bits: u8,
}

impl Rights {
    /// Every right.
    pub const ALL: Self = Self { bits: 0b1111 };
    /// What an import needs.
    pub const IMPORT: Self = Self { bits: Self::bit(Right::Exists) | Self::bit(Right::Read) };
    /// What an export needs. An export reads nothing back.
    pub const EXPORT: Self = Self { bits: Self::bit(Right::Exists) | Self::bit(Right::Write) };

    const fn bit(right: Right) -> u8 {
        1 << right as u8
    }

    /// The set of these rights.
    #[must_use]
    pub fn of(rights: &[Right]) -> Self {
        Self { bits: rights.iter().fold(0, |bits, &right| bits | Self::bit(right)) }
    }

    /// Whether the set has `right`.
    #[must_use]
    pub fn allows(self, right: Right) -> bool {
        self.bits & Self::bit(right) != 0
    }
}

/// A refusal: the grant does not reach that far.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("access denied: {0}")]
pub struct Denied(String);

impl Denied {
    /// A refusal with its reason, which the caller is shown.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}
