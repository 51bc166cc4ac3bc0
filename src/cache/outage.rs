//! `on_unavailable = "miss"`: a store that fails makes a build slower, and does not fail it.
//!
//! Under a grant that comes with [`Losses`](crate::types::Losses), a lookup that the store does not answer
//! is a miss. The first write that it does not take drops the whole export of that grant: what follows is
//! said to exist already or taken and thrown away, and in the end no manifest is published, as it would
//! promise what is not there. Without losses (an operator's key, the content endpoint, `"fail"`) every
//! error is the caller's.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{BlobRead, Cache, Error, Result};
use crate::types::{ByteRange, Digest, Grant, ManifestName, Right};

/// How long a layer that a served manifest names is waited for. BuildKit has decided by then to use it:
/// without it the build fails, so nothing is gained by giving up sooner.
const PROMISE: Duration = Duration::from_secs(60);
/// The same where the build is then run again without its cache. By then two unanswered requests have opened
/// the breaker (at the default deadlines), so that the export of the second run costs no time on top.
const OUTLIVED_PROMISE: Duration = Duration::from_secs(7);
/// Between two tries of a read whose store is throttling or full, which nothing reports the end of.
const PAUSE: Duration = Duration::from_secs(1);

impl Error {
    /// Whether it says nothing of what was asked for, only that the store (or the spool) cannot now.
    #[must_use]
    pub fn is_outage(&self) -> bool {
        matches!(self, Self::Unavailable(_) | Self::Exhausted(_) | Self::Refused(_) | Self::Internal(_))
    }
}

impl Cache {
    /// As [`Cache::read_blob`]; a build's import waits for its store to be back: up to a minute, or for 7 s
    /// where the build passes without.
    ///
    /// # Errors
    /// Those of [`Cache::read_blob`].
    pub async fn read_promised_blob(&self, grant: &Grant, digest: &Digest, range: Option<ByteRange>) -> Result<BlobRead> {
        let read = self.promised(grant, digest, || self.read_blob(grant, digest, range)).await;
        if let (Err(Error::NotFound(_) | Error::Corrupt(_)), Some(losses)) = (&read, grant.losses()) {
            losses.promises().break_one();
        }
        read
    }

    /// Makes a lookup of a blob that a served manifest names; a build's import waits as
    /// [`Cache::read_promised_blob`] does.
    ///
    /// # Errors
    /// Those of `look`.
    pub async fn promised<T, F>(&self, grant: &Grant, digest: &Digest, look: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let Some(losses) = grant.losses().filter(|_| grant.check(Right::Read).is_ok()) else { return look().await };
        let promises = losses.promises();
        // What is not found is not asked for again, neither here nor by BuildKit.
        let lost = || Error::NotFound(format!("blob {digest}: the build is run again without its cache"));
        match (promises.is_broken(), promises.is_replayable()) {
            (true, true) => return Err(lost()),
            (true, false) => return look().await,
            (false, _) => {}
        }
        let patience = if promises.is_replayable() { OUTLIVED_PROMISE } else { PROMISE };
        let (deadline, mut last) = (Instant::now() + patience, None);
        let tries = async {
            loop {
                let error = match look().await {
                    Err(error) if error.is_outage() => error,
                    other => return other,
                };
                tracing::warn!(%error, "a build needs blob {digest} and the store fails; it is asked for again: {error}");
                last = Some(error);
                let store = self.store(grant)?;
                tokio::time::sleep(PAUSE).await;
                store.wait_until_available().await;
            }
        };
        match timeout_at(deadline, tries).await {
            Ok(found) => found,
            Err(_) => {
                promises.break_one();
                if promises.is_replayable() {
                    return Err(lost());
                }
                Err(last.unwrap_or_else(|| Error::Unavailable(format!("blob {digest}: no answer from the store in {patience:?}"))))
            }
        }
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
