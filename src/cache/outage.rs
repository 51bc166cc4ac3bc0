//! `on_unavailable = "miss"`: a store that fails makes a build slower, and does not fail it.
//!
//! A grant for such a build comes with [`Losses`](crate::types::Losses). Under it, a lookup that the store does not answer is
//! a miss. The first write that the store does not take drops the whole export of that grant: from then on its blobs are said
//! to exist already, or are taken and thrown away, and no manifest is published in the end, as it would promise what is not
//! there. Without losses (an operator's key, the content endpoint, `"fail"`) every error is the caller's.

use std::future::Future;

use super::layout::Item;
use super::{Error, Result};
use crate::types::{Grant, Losses, ManifestName, Right};

/// What became of a step of an export.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Export<T> {
    /// It was done.
    Stored(T),
    /// The export is dropped, before this step or by it.
    Dropped,
}

impl<T> Export<T> {
    /// Whether the export is dropped.
    #[must_use]
    pub fn is_dropped(&self) -> bool {
        matches!(self, Self::Dropped)
    }

    /// What was stored, as something else.
    #[must_use]
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Export<U> {
        match self {
            Self::Stored(stored) => Export::Stored(change(stored)),
            Self::Dropped => Export::Dropped,
        }
    }

    /// What the step came to, where it was done.
    #[must_use]
    pub fn stored(self) -> Option<T> {
        match self {
            Self::Stored(stored) => Some(stored),
            Self::Dropped => None,
        }
    }
}

impl Error {
    /// Whether it says nothing of what was asked for, only that the store (or the spool) cannot answer now.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Exhausted(_) | Self::Refused(_) | Self::Internal(_))
    }
}

/// Makes an outage a miss, where the grant allows that. `item` was looked up.
///
/// # Errors
/// Those of `result`; for an outage [`Error::NotFound`].
pub(super) fn or_miss<T>(grant: &Grant, item: &Item, result: Result<T>) -> Result<T> {
    match result {
        Err(error) if error.is_outage() && grant.losses().is_some() => {
            tracing::warn!(%error, "{item} counts as missing, as the store fails: {error}");
            Err(Error::NotFound(item.to_string()))
        }
        other => other,
    }
}

/// Does a step of an export, unless that is dropped.
///
/// # Errors
/// Those of `step` that are no outage, or where the grant does not allow that.
pub(super) async fn unless_dropped<T>(grant: &Grant, step: impl Future<Output = Result<T>>) -> Result<Export<T>> {
    if is_dropped(grant) { Ok(Export::Dropped) } else { or_dropped(grant, step.await) }
}

/// Drops the export of a build when a step of it has failed by an outage.
///
/// # Errors
/// Those of `result` that are no outage, or where the grant does not allow that.
pub(super) fn or_dropped<T>(grant: &Grant, result: Result<T>) -> Result<Export<T>> {
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
            Ok(Export::Dropped)
        }
        (result, _) => result.map(Export::Stored),
    }
}

/// Whether the export that this grant is for is dropped: nothing of it needs to be stored any more.
#[must_use]
pub fn is_dropped(grant: &Grant) -> bool {
    grant.check(Right::Write).is_ok() && grant.losses().is_some_and(Losses::has_dropped_export)
}
