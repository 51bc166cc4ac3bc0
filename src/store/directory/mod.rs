//! A bucket in a directory: `<root>/<bucket>/<key>`.
//!
//! Everything that touches the disk runs on tokio's blocking threads, in large steps. See [`path`] for how keys become file
//! names, [`version`] for what makes a version, [`write`] for how writes are atomic and durable, [`read`] for reads,
//! [`multipart`] for parts and [`list`] for listings.

mod bucket;
mod error;
mod list;
mod multipart;
mod path;
mod read;
mod version;
mod write;

use async_trait::async_trait;
use futures_util::{StreamExt as _, stream};

pub use self::bucket::Directory;
use self::error::refusal;
use self::read::read;
use self::version::meta;
use super::contract::cut_to_object;
use super::{Body, Condition, Error, GuardedStore, Meta, MultipartId, Object, Page, Part, Result, Store};
use crate::types::{ByteRange, ETag, Key};

#[async_trait]
impl Store for Directory {
    fn url(&self) -> String {
        format!("file://{}", self.bucket_dir().display())
    }

    async fn head(&self, key: &Key) -> Result<Meta> {
        let key = key.clone();
        self.blocking(move |this| {
            let (path, file) = this.open(&key)?;
            Ok(meta(&file.metadata().map_err(|error| refusal("read", &path, error))?))
        })
        .await
    }

    async fn get(&self, key: &Key, range: Option<ByteRange>, version: Option<&ETag>) -> Result<Object> {
        let wanted = key.clone();
        let (path, file, meta) = self
            .blocking(move |this| {
                let (path, file) = this.open(&wanted)?;
                let meta = meta(&file.metadata().map_err(|error| refusal("read", &path, error))?);
                Ok((path, file, meta))
            })
            .await?;
        if version.is_some_and(|version| *version != meta.etag) {
            return Err(Error::Precondition(key.to_string()));
        }
        let range = cut_to_object(key, range, meta.size)?;
        let body = range.map_or_else(|| stream::empty().boxed(), |range| read(path, file, range));
        Ok(Object { meta, range, body })
    }

    async fn put(&self, key: &Key, body: Body, condition: Condition) -> Result<ETag> {
        let key = key.clone();
        self.blocking(move |this| this.put_now(&key, &body, &condition)).await
    }

    async fn begin_multipart(&self, key: &Key) -> Result<MultipartId> {
        let key = key.clone();
        self.blocking(move |this| this.begin_multipart_now(&key)).await
    }

    async fn put_part(&self, key: &Key, id: &MultipartId, number: u16, body: Body) -> Result<Part> {
        let key = key.clone();
        let id = id.clone();
        self.blocking(move |this| this.put_part_now(&key, &id, number, &body)).await
    }

    async fn complete_multipart(&self, key: &Key, id: &MultipartId, parts: &[Part], condition: Condition) -> Result<ETag> {
        let key = key.clone();
        let id = id.clone();
        let parts = parts.to_vec();
        self.blocking(move |this| this.complete_multipart_now(&key, &id, &parts, &condition)).await
    }

    async fn abort_multipart(&self, key: &Key, id: &MultipartId) -> Result<()> {
        let key = key.clone();
        let id = id.clone();
        self.blocking(move |this| this.abort_multipart_now(&key, &id)).await
    }

    async fn touch(&self, key: &Key) -> Result<()> {
        let key = key.clone();
        self.blocking(move |this| this.touch_now(&key)).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        let key = key.clone();
        self.blocking(move |this| this.delete_now(&key)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page> {
        let prefix = prefix.to_owned();
        let after = after.map(str::to_owned);
        self.blocking(move |this| this.list_now(&prefix, after.as_deref(), limit)).await
    }

    fn prefers_multipart(&self) -> bool {
        false
    }
}

/// A local disk answers, or fails at once.
impl GuardedStore for Directory {}
