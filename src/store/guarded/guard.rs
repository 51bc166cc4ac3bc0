//! A guarded store: the store, and what its guard consists of.

use std::fmt;
use std::sync::Arc;

use futures_util::{StreamExt as _, stream};
use tokio::time::timeout;

use super::breaker::Breaker;
use super::limit::Limit;
use super::policy::Policy;
use super::traits::RemoteStore;
use crate::metrics::StoreMetrics;
use crate::shutdown::Shutdown;
use crate::store::{ByteStream, Error};
use crate::types::Key;

/// A remote store whose calls end in time. Cheap to clone.
#[derive(Clone)]
pub struct Guarded(pub(super) Arc<Inner>);

pub(super) struct Inner {
    pub(super) store: Arc<dyn RemoteStore>,
    pub(super) policy: Policy,
    pub(super) breaker: Breaker,
    pub(super) limit: Limit,
    pub(super) metrics: StoreMetrics,
    pub(super) shutdown: Shutdown,
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("store", &self.0.store).field("policy", &self.0.policy).finish_non_exhaustive()
    }
}

impl Guarded {
    /// Guards `store`. The breaker's probes are tasks of `shutdown`.
    #[must_use]
    pub fn new(store: Arc<dyn RemoteStore>, policy: Policy, metrics: StoreMetrics, shutdown: Shutdown) -> Self {
        let breaker = Breaker::new(policy.breaker.budget);
        let limit = Limit::new(policy.max_requests);
        metrics.allowed(policy.max_requests);
        Self(Arc::new(Inner { store, policy, breaker, limit, metrics, shutdown }))
    }

    pub(super) fn store(&self) -> &dyn RemoteStore {
        self.0.store.as_ref()
    }

    /// Ends a body with an error when its reader waits and no byte arrives. A reader that pauses is no stall: what arrived
    /// meanwhile is there when the reader goes on.
    pub(super) fn unstalled(&self, key: &Key, body: ByteStream) -> ByteStream {
        let key = key.clone();
        let stall = self.0.policy.deadlines.stall;
        stream::try_unfold(body, move |mut body| {
            let key = key.clone();
            async move {
                match timeout(stall, body.next()).await {
                    Ok(chunk) => Ok(chunk.transpose()?.map(|chunk| (chunk, body))),
                    Err(_) => Err(Error::Unavailable(format!("reading {:?} stalled for {stall:?}", key.as_str()))),
                }
            }
        })
        .boxed()
    }
}
