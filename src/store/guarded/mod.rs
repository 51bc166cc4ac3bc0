//! The guard of a remote store: deadlines, retries, a circuit breaker and a limit on concurrent requests.
//!
//! Every call of a [`Guarded`] store ends in time. A call that got no answer, or was told to slow down, is retried after a
//! pause with jitter; the SDK below makes each call once. When the store no longer answers at all, the [`breaker`] opens and
//! calls fail at once until a probe is answered. The [`limit`] allows fewer requests at once while the store is throttling.
//! [`traits`] has the two sides of the guard.

mod breaker;
mod call;
mod guard;
mod limit;
mod policy;
mod traits;

use std::time::Duration;

use async_trait::async_trait;
use time::OffsetDateTime;

use self::call::Pace;
pub use self::guard::Guarded;
pub use self::policy::{BreakerPolicy, Deadlines, Policy};
pub use self::traits::{GuardedStore, RemoteStore};
use super::{Body, Condition, Meta, MultipartId, Object, Page, Part, Result, Store};
use crate::types::{ByteRange, ETag, Key};

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
