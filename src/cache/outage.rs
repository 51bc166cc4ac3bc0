//! `on_unavailable = "miss"`: a store that fails makes a build slower, and does not fail it.
//!
//! Under a grant that comes with [`Losses`](crate::types::Losses), a lookup that the store does not answer
//! is a miss. The first write that it does not take drops the whole export of that grant: what follows is
//! said to exist already or taken and thrown away, and in the end no manifest is published, as it would
//! promise what is not there. Without losses (an operator's key, the content endpoint, `"fail"`) every
//! error is the caller's.

use std::future::Future;

use super::{Error, Result};
use crate::types::{Grant, ManifestName, Right};

impl Error {
    /// Whether it says nothing of what was asked for, only that the store (or the spool) cannot now.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Exhausted(_) | Self::Refused(_) | Self::Internal(_))
    }
}

/// Makes an outage a miss, where the grant allows that. `what` was looked up.
///
/// # Errors
/// Those of `result`; for an outage [`Error::NotFound`].
pub fn or_miss<T>(grant: &Grant, what: &str, result: Result<T>) -> Result<T> {
    match result {
        Err(error) if error.is_outage() && grant.losses().is_some() => {
            tracing::warn!(%error, "{what} counts as missing, as the store fails: {error}");
            Err(Error::NotFound(what.to_owned()))
        }
        other => other,
    }
}

/// Does a step of an export, unless that is dropped; `None`: it is, before this step or by it.
///
/// # Errors
/// As [`or_dropped`].
pub async fn unless_dropped<T>(grant: &Grant, step: impl Future<Output = Result<T>>) -> Result<Option<T>> {
    if is_dropped(grant) { Ok(None) } else { or_dropped(grant, step.await) }
}

/// Drops the export of a build when a step of it fails by an outage; the step then came to `None`.
///
/// # Errors
/// Those of `result` that are no outage, or where the grant does not allow that.
pub fn or_dropped<T>(grant: &Grant, result: Result<T>) -> Result<Option<T>> {
    match (result, grant.losses()) {
        (Err(error), Some(losses)) if error.is_outage() => {
            if losses.drop_export(&error.to_string()) {
                let names: Vec<&str> = grant.names().into_iter().flatten().map(ManifestName::as_str).collect();
                let names = names.join(", ");
                tracing::warn!(
                    cache.name = names,
                    %error,
                    "the export of {names} to {} is dropped, and the build goes on without it: {error}",
                    grant.scope()
                );
            }
            Ok(None)
        }
        (result, _) => result.map(Some),
    }
}

/// Whether the export that this grant is for is dropped: nothing of it needs to be stored any more.
#[must_use]
pub fn is_dropped(grant: &Grant) -> bool {
    grant.check(Right::Write).is_ok() && grant.losses().is_some_and(crate::types::Losses::has_dropped_export)
}
