//! The guard of a remote store: deadlines, retries, a circuit breaker and a limit on concurrent requests.
//!
//! Every call of a [`Guarded`] store ends in time. A call that got no answer, or was told to slow down, is retried after a
//! pause with jitter; the SDK below makes each call once. When the store no longer answers at all, the [`breaker`] opens and
//! calls fail at once until a probe is answered. The [`limit`] allows fewer requests at once while the store is throttling.
//! [`traits`] has the two sides of the guard.

mod breaker;
mod call;
mod limit;
mod policy;
mod traits;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};
use time::OffsetDateTime;
use tokio::time::timeout;

use self::breaker::Breaker;
use self::call::Pace;
use self::limit::Limit;
pub use self::policy::{BreakerPolicy, Deadlines, Policy};
pub use self::traits::{GuardedStore, RemoteStore};
use super::{Body, ByteStream, Condition, Error, Meta, MultipartId, Object, Page, Part, Result, Store};
use crate::metrics::StoreMetrics;
use crate::shutdown::Shutdown;
use crate::types::{ByteRange, ETag, Key};

/// A remote store whose calls end in time. Cheap to clone.
#[derive(Clone)]
pub struct Guarded(Arc<Inner>);

struct Inner {
    store: Arc<dyn RemoteStore>,
    policy: Policy,
    breaker: Breaker,
    limit: Limit,
    metrics: StoreMetrics,
    shutdown: Shutdown,
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

    fn store(&self) -> &dyn RemoteStore {
        self.0.store.as_ref()
    }

    /// Ends a body with an error when its reader waits and no byte arrives. A reader that pauses is no stall: what arrived
    /// meanwhile is there when the reader goes on.
    fn unstalled(&self, key: &Key, body: ByteStream) -> ByteStream {
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

#[async_trait]
impl Store for Guarded {
    fn url(&self) -> String {
        self.store().url()
    }

    async fn head(&self, key: &Key) -> Result<Meta> {
        self.call(Pace::Quick, || self.store().head(key)).await
    }

    async fn get(&self, key: &Key, range: Option<ByteRange>, version: Option<&ETag>) -> Result<Object> {
        let mut object = self.call(Pace::Quick, || self.store().get(key, range, version)).await?;
        object.body = self.unstalled(key, object.body);
        Ok(object)
    }

    async fn put(&self, key: &Key, body: Body, condition: Condition) -> Result<ETag> {
        self.call(Pace::of_body(body.len()), || self.store().put(key, body.clone(), condition.clone())).await
    }

    async fn begin_multipart(&self, key: &Key) -> Result<MultipartId> {
        self.call(Pace::Quick, || self.store().begin_multipart(key)).await
    }

    async fn put_part(&self, key: &Key, id: &MultipartId, number: u16, body: Body) -> Result<Part> {
        self.call(Pace::of_body(body.len()), || self.store().put_part(key, id, number, body.clone())).await
    }

    async fn complete_multipart(&self, key: &Key, id: &MultipartId, parts: &[Part], condition: Condition) -> Result<ETag> {
        self.call(Pace::Long, || self.store().complete_multipart(key, id, parts, condition.clone())).await
    }

    async fn abort_multipart(&self, key: &Key, id: &MultipartId) -> Result<()> {
        self.call(Pace::Quick, || self.store().abort_multipart(key, id)).await
    }

    async fn list_multipart(&self, key: &Key) -> Result<Vec<(MultipartId, OffsetDateTime)>> {
        self.call(Pace::of_body(0), || self.store().list_multipart(key)).await
    }

    async fn touch(&self, key: &Key) -> Result<()> {
        self.call(Pace::Long, || self.store().touch(key)).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.call(Pace::Quick, || self.store().delete(key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page> {
        self.call(Pace::of_body(0), || self.store().list(prefix, after, limit)).await
    }

    fn prefers_multipart(&self) -> bool {
        self.store().prefers_multipart()
    }

    async fn check(&self) -> Result<()> {
        self.call(Pace::of_body(0), || self.store().check()).await
    }
}

#[async_trait]
impl GuardedStore for Guarded {
    fn has_headroom(&self) -> bool {
        self.0.breaker.is_closed() && self.0.limit.has_headroom()
    }

    async fn wait_until_available(&self) {
        self.0.breaker.closed().await;
    }

    fn longest_call(&self) -> Duration {
        self.0.policy.deadlines.total
    }
}
