//! The core's error: one variant for each decision that a caller can take.

use crate::store;
use crate::types::{Denied, Invalid};

/// Why the cache could not do what it was asked. Endpoints map each variant to their protocol's status,
/// in one `status.rs` each; the text is fit to be shown to the caller.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// There is no such blob, manifest, ingest or upload.
    #[error("not found: {0}")]
    NotFound(String),
    /// The blob or ingest exists already.
    #[error("already exists: {0}")]
    AlreadyExists(String),
    /// The request can never succeed as it is.
    #[error("invalid: {0}")]
    Invalid(String),
    /// What the store holds is not what it should be.
    #[error("corrupt: {0}")]
    Corrupt(String),
    /// The grant does not reach that far.
    #[error("{0}")]
    Denied(String),
    /// The state is not the one that the call is for: another digest or size, a blob missing.
    #[error("failed precondition: {0}")]
    Precondition(String),
    /// Another version is there than the one that the call was made for: reading it anew may help.
    #[error("conflict: {0}")]
    Conflict(String),
    /// An offset that is not where it must be.
    #[error("out of range: {0}")]
    OutOfRange(String),
    /// Somebody else holds it now; trying again later may help.
    #[error("locked: {0}")]
    Locked(String),
    /// A bound is reached: a full disk, too large a manifest, too many open ingests.
    #[error("exhausted: {0}")]
    Exhausted(String),
    /// The store refuses remora: its credentials, or what it does with them.
    #[error("{0}")]
    Refused(String),
    /// The store does not answer.
    #[error("unavailable: {0}")]
    Unavailable(String),
    /// A bug or a failing disk.
    #[error("internal error: {0}")]
    Internal(String),
}

impl From<store::Error> for Error {
    fn from(error: store::Error) -> Self {
        match error {
            store::Error::NotFound(what) => Self::NotFound(what),
            store::Error::Precondition(_) => Self::Conflict(error.to_string()),
            store::Error::Denied(_) => Self::Refused(error.to_string()),
            store::Error::Invalid(what) => Self::Invalid(what),
            store::Error::Unsupported(_) => Self::Invalid(error.to_string()),
            store::Error::Exhausted(what) => Self::Exhausted(what),
            store::Error::Unavailable(what) => Self::Unavailable(what),
            store::Error::Internal { message, source } => {
                Self::Internal(source.map_or_else(|| message.clone(), |source| format!("{message}: {source}")))
            }
        }
    }
}

impl From<Denied> for Error {
    fn from(denied: Denied) -> Self {
        Self::Denied(denied.to_string())
    }
}

impl From<Invalid> for Error {
    fn from(invalid: Invalid) -> Self {
        Self::Invalid(invalid.to_string())
    }
}

impl From<std::io::Error> for Error {
    /// The error of a file in the spool: the cache itself touches no other files.
    fn from(error: std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded => Self::Exhausted(format!("spool: {error}")),
            _ => Self::Internal(format!("spool: {error}")),
        }
    }
}

/// The cache's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
