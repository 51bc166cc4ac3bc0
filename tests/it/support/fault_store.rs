//! A store that fails as a test tells it to.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use futures_util::StreamExt as _;
use remora::store::{Body, ByteStream, Condition, Error, GuardedStore, Meta, MultipartId, Object, Page, Part, RemoteStore, Result, Store};
use remora::types::{ByteRange, ETag, Key};
use time::OffsetDateTime;

/// What becomes of the next calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// There is never an answer.
    Silence,
    /// Only lookups are answered.
    SilentWrites,
    /// Every call fails at once.
    Unavailable,
    /// Every call but a lookup fails at once.
    UnavailableWrites,
    /// Objects can be read, but not looked up.
    UnavailableLookups,
    /// One of this many calls is told to slow down.
    Throttle(usize),
    /// Calls are refused as long as they are signed with credentials that are no longer valid.
    Expired,
    /// Calls are refused however they are signed.
    Denied,
    /// Multipart uploads are begun, but their IDs never arrive.
    SilentBegin,
    /// Bodies stop after their first chunk.
    Stall,
}

/// A bucket with faults. Clones are one and the same.
#[derive(Debug, Clone)]
pub(crate) struct FaultStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    store: Arc<dyn Store>,
    fault: Mutex<Fault>,
    calls: AtomicUsize,
    out: AtomicUsize,
    most: AtomicUsize,
}

/// A call that has not ended.
struct Out<'store>(&'store Inner);

impl Drop for Out<'_> {
    fn drop(&mut self) {
        self.0.out.fetch_sub(1, Ordering::SeqCst);
    }
}

impl FaultStore {
    pub(crate) fn new(store: impl Store) -> Self {
        let fault = Mutex::new(Fault::None);
        let zero = AtomicUsize::default;
        Self(Arc::new(Inner { store: Arc::new(store), fault, calls: zero(), out: zero(), most: zero() }))
    }

    pub(crate) fn fails_with(&self, fault: Fault) {
        *self.0.fault.lock().unwrap() = fault;
    }

    /// Calls so far.
    pub(crate) fn calls(&self) -> usize {
        self.0.calls.load(Ordering::SeqCst)
    }

    /// The most calls that ran at once since this was last called.
    pub(crate) fn most_at_once(&self) -> usize {
        self.0.most.swap(0, Ordering::SeqCst)
    }

    async fn look_up(&self) -> Result<()> {
        self.call(true).await?;
        match *self.0.fault.lock().unwrap() {
            Fault::UnavailableLookups => Err(Error::Unavailable("broken".to_owned())),
            _ => Ok(()),
        }
    }

    async fn call(&self, is_lookup: bool) -> Result<()> {
        let call = self.0.calls.fetch_add(1, Ordering::SeqCst);
        self.0.most.fetch_max(self.0.out.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
        let _out = Out(&self.0);
        let fault = *self.0.fault.lock().unwrap();
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        match fault {
            Fault::None | Fault::Stall | Fault::SilentBegin | Fault::UnavailableLookups => Ok(()),
            Fault::Silence => std::future::pending().await,
            Fault::SilentWrites | Fault::UnavailableWrites if is_lookup => Ok(()),
            Fault::SilentWrites => std::future::pending().await,
            Fault::Unavailable | Fault::UnavailableWrites => Err(Error::Unavailable("broken".to_owned())),
            Fault::Throttle(each) if call.is_multiple_of(each) => Err(Error::Exhausted("SlowDown".to_owned())),
            Fault::Throttle(_) => Ok(()),
            Fault::Expired => Err(Error::Denied("ExpiredToken".to_owned())),
            Fault::Denied => Err(Error::Denied("AccessDenied".to_owned())),
        }
    }
}

impl GuardedStore for FaultStore {}

#[async_trait::async_trait]
impl Store for FaultStore {
    fn url(&self) -> String {
        "memory:faults".to_owned()
    }

    async fn head(&self, key: &Key) -> Result<Meta> {
        self.look_up().await?;
        self.0.store.head(key).await
    }

    async fn get(&self, key: &Key, range: Option<ByteRange>, version: Option<&ETag>) -> Result<Object> {
        self.call(true).await?;
        let mut object = self.0.store.get(key, range, version).await?;
        if *self.0.fault.lock().unwrap() == Fault::Stall {
            let stalled: ByteStream = object.body.take(1).chain(futures_util::stream::pending()).boxed();
            object.body = stalled;
        }
        Ok(object)
    }

    async fn put(&self, key: &Key, body: Body, condition: Condition) -> Result<ETag> {
        self.call(false).await?;
        self.0.store.put(key, body, condition).await
    }

    async fn begin_multipart(&self, key: &Key) -> Result<MultipartId> {
        self.call(false).await?;
        let begun = self.0.store.begin_multipart(key).await;
        if *self.0.fault.lock().unwrap() == Fault::SilentBegin {
            std::future::pending::<()>().await;
        }
        begun
    }

    async fn put_part(&self, key: &Key, id: &MultipartId, number: u16, body: Body) -> Result<Part> {
        self.call(false).await?;
        self.0.store.put_part(key, id, number, body).await
    }

    async fn complete_multipart(&self, key: &Key, id: &MultipartId, parts: &[Part], condition: Condition) -> Result<ETag> {
        self.call(false).await?;
        self.0.store.complete_multipart(key, id, parts, condition).await
    }

    async fn abort_multipart(&self, key: &Key, id: &MultipartId) -> Result<()> {
        self.0.store.abort_multipart(key, id).await
    }

    async fn list_multipart(&self, key: &Key) -> Result<Vec<(MultipartId, OffsetDateTime)>> {
        self.call(true).await?;
        self.0.store.list_multipart(key).await
    }

    async fn touch(&self, key: &Key) -> Result<()> {
        self.call(false).await?;
        self.0.store.touch(key).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.call(true).await?;
        self.0.store.delete(key).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page> {
        self.look_up().await?;
        self.0.store.list(prefix, after, limit).await
    }

    fn prefers_multipart(&self) -> bool {
        false
    }

    async fn check(&self) -> Result<()> {
        self.call(true).await
    }
}

#[async_trait::async_trait]
impl RemoteStore for FaultStore {
    async fn refresh_credentials_after(&self, refusal: &Error) -> bool {
        if refusal.to_string().contains("ExpiredToken") {
            self.fails_with(Fault::None);
        }
        true
    }
}
