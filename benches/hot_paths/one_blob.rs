//! A store that costs nothing: it has one blob in memory, under every key.

use std::sync::atomic::{AtomicU64, Ordering};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use remora::store::{Body, Condition, Error, GuardedStore, Meta, MultipartId, Object, Page, Part, Result, Store};
use remora::types::{ByteRange, ETag, Key};
use time::OffsetDateTime;

/// The store.
#[derive(Debug)]
pub(crate) struct OneBlob {
    bytes: Bytes,
    /// The size of the chunks in which bodies come.
    chunk: usize,
    in_ranges: bool,
    ever_new: bool,
    version: AtomicU64,
}

impl OneBlob {
    pub(crate) fn new(bytes: Bytes, chunk: usize) -> Self {
        Self { bytes, chunk, in_ranges: false, ever_new: false, version: AtomicU64::default() }
    }

    /// Makes remora read it in ranges, as from S3.
    pub(crate) fn in_ranges(self) -> Self {
        Self { in_ranges: true, ..self }
    }

    /// Gives the blob another version at every call.
    pub(crate) fn ever_new(self) -> Self {
        Self { ever_new: true, ..self }
    }

    fn meta(&self) -> Meta {
        let version = self.version.fetch_add(u64::from(self.ever_new), Ordering::Relaxed);
        Meta { size: self.bytes.len() as u64, etag: ETag::new(&version.to_string()), modified: OffsetDateTime::now_utc() }
    }
}

fn read_only<T>() -> Result<T> {
    Err(Error::Unsupported("it is only read".to_owned()))
}

impl GuardedStore for OneBlob {}

#[async_trait]
impl Store for OneBlob {
    fn url(&self) -> String {
        "memory:".to_owned()
    }

    async fn head(&self, _: &Key) -> Result<Meta> {
        Ok(self.meta())
    }

    async fn get(&self, _: &Key, range: Option<ByteRange>, _: Option<&ETag>) -> Result<Object> {
        let meta = self.meta();
        let range = range.map_or(ByteRange::new(0, meta.size), |range| ByteRange::new(range.start(), range.end().min(meta.size)));
        let place = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
        let (rest, chunk) = (range.map_or(Bytes::new(), |range| self.bytes.slice(place(range.start())..place(range.end()))), self.chunk);
        let chunks = stream::unfold(rest, move |mut rest| async move {
            let chunk = rest.split_to(chunk.min(rest.len()));
            (!chunk.is_empty()).then_some((Ok(chunk), rest))
        });
        Ok(Object { meta, range, body: chunks.boxed() })
    }

    async fn put(&self, _: &Key, _: Body, _: Condition) -> Result<ETag> {
        read_only()
    }

    async fn begin_multipart(&self, _: &Key) -> Result<MultipartId> {
        read_only()
    }

    async fn put_part(&self, _: &Key, _: &MultipartId, _: u16, _: Body) -> Result<Part> {
        read_only()
    }

    async fn complete_multipart(&self, _: &Key, _: &MultipartId, _: &[Part], _: Condition) -> Result<ETag> {
        read_only()
    }

    async fn abort_multipart(&self, _: &Key, _: &MultipartId) -> Result<()> {
        read_only()
    }

    async fn touch(&self, _: &Key) -> Result<()> {
        read_only()
    }

    async fn delete(&self, _: &Key) -> Result<()> {
        read_only()
    }

    async fn list(&self, _: &str, _: Option<&str>, _: usize) -> Result<Page> {
        read_only()
    }

    fn prefers_multipart(&self) -> bool {
        self.in_ranges
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }
}
