//! What access keys stand for, and what a build asks for when it needs one.

use std::fmt;

use secrecy::SecretString;
use tokio_util::sync::CancellationToken;

use crate::types::{Durability, Grant, ManifestName, Scope};

/// A key pair of the configuration.
#[derive(Debug, Clone)]
pub struct OperatorKey {
    /// The public half.
    pub access_key_id: String,
    /// The secret half.
    pub secret_access_key: SecretString,
    /// What it gives access to.
    pub grant: Grant,
}

/// What an access key id stands for.
#[derive(Debug, Clone)]
pub struct Credential {
    /// For checking the signature of a request.
    pub secret_access_key: SecretString,
    /// What the caller may do.
    pub grant: Grant,
    /// Cancelled when the build that it was issued to is over, and all builds that ran at the same time are over, too. For an
    /// operator's key: never.
    pub over: CancellationToken,
}

/// Why an access key id gives no access.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It was never issued.
    #[error("this access key id is not known to remora")]
    Unknown,
    /// Its build is over.
    #[error("this grant has ended with the build that it was made for")]
    Ended,
}

/// A grant in the form in which a build's cache options carry it.
#[derive(Clone)]
pub struct IssuedGrant {
    /// For `access_key_id=`.
    pub access_key_id: String,
    /// For `secret_access_key=`.
    pub secret_access_key: String,
}

impl fmt::Debug for IssuedGrant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IssuedGrant").field("access_key_id", &self.access_key_id).finish_non_exhaustive()
    }
}

/// What a build's grant is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// `--cache-from`.
    Import,
    /// `--cache-to`.
    Export,
}

/// What a build asks for when it needs a grant.
#[derive(Debug, Clone, Copy)]
pub struct GrantRequest<'a> {
    /// An import may read the manifests in `names` and the blobs that they name. An export may write them.
    pub purpose: Purpose,
    /// Where the grant applies.
    pub scope: &'a Scope,
    /// Which manifests it is for.
    pub names: &'a [ManifestName],
    /// How far a write has to get before it is acknowledged.
    pub durability: Durability,
}
