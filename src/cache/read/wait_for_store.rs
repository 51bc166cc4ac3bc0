//! Reads of layers that a served manifest names: a build waits for its store to be back.
//!
//! BuildKit has decided by then to use the layer, and fails without it, so nothing is gained by giving up soon.

use std::future::Future;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use crate::cache::{Error, Result};
use crate::store::Stores;
use crate::types::{Digest, Grant, Right};

/// How long the layer is waited for.
const PATIENCE: Duration = Duration::from_secs(60);
/// How long it is waited for where the build is then run again without its cache. By then two unanswered requests have
/// opened the breaker (at the default deadlines), so that the export of the second run costs no time on top.
const PATIENCE_BEFORE_SECOND_RUN: Duration = Duration::from_secs(7);
/// Time between two tries of a read whose store is throttling or full: nothing reports the end of that.
const PAUSE: Duration = Duration::from_secs(1);

/// Makes a lookup of a blob that a served manifest names. An import of a build waits for its store to be back: up to a
/// minute, or for 7 s where the build is then run again without its cache.
///
/// # Errors
/// Those of `look`.
pub(super) async fn promised<T, F>(stores: &Stores, grant: &Grant, digest: &Digest, look: impl Fn() -> F) -> Result<T>
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
    let patience = if promises.is_replayable() { PATIENCE_BEFORE_SECOND_RUN } else { PATIENCE };
    let deadline = Instant::now() + patience;
    let mut last = None;
    let tries = async {
        loop {
            let error = match look().await {
                Err(error) if error.is_outage() => error,
                other => return other,
            };
            tracing::warn!(%error, "a build needs blob {digest} and the store fails; it is asked for again: {error}");
            last = Some(error);
            let store = stores.store(grant.scope())?;
            tokio::time::sleep(PAUSE).await;
            store.wait_until_available().await;
        }
    };
    match timeout_at(deadline, tries).await {
        Ok(answer) => answer,
        Err(_) => {
            promises.break_one();
            if promises.is_replayable() {
                return Err(lost());
            }
            Err(last.unwrap_or_else(|| Error::Unavailable(format!("blob {digest}: no answer from the store in {patience:?}"))))
        }
    }
}
