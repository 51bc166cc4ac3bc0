//! A bucket in a directory: `<root>/<bucket>/<key>`.
//!
//! Everything that touches the disk runs on tokio's blocking threads, in large steps. See [`path`] for how keys become file
//! names, [`write`] for how writes are atomic and durable, [`multipart`] for parts and [`list`] for listings.

mod error;
mod list;
mod multipart;
mod path;
mod write;

use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use time::OffsetDateTime;

use self::error::{is_absence, refusal};
use super::contract::cut_to_object;
use super::{Body, ByteStream, Condition, Error, GuardedStore, Meta, MultipartId, Object, Page, Part, Result, Store};
use crate::types::{BucketName, ByteRange, ETag, Key};

/// Bytes of one read.
const READ_BYTES: u64 = 512 << 10;
/// Reads of one body that run at once, including the one that its reader waits for.
const READS_AT_ONCE: usize = 2;

/// A bucket that is a folder.
#[derive(Debug, Clone)]
pub struct Directory {
    root: PathBuf,
    bucket: BucketName,
}

impl Directory {
    /// The bucket `name` below `root`. Nothing is made before the first write.
    #[must_use]
    pub fn new(root: &Path, name: &BucketName) -> Self {
        Self { root: root.to_owned(), bucket: name.clone() }
    }

    fn bucket_dir(&self) -> PathBuf {
        self.root.join(self.bucket.as_str())
    }

    /// The folder for files that are not objects. No bucket's name begins with a dot.
    fn state_dir(&self, name: &str) -> PathBuf {
        self.root.join(".remora").join(name)
    }

    /// Runs `work` on a thread that may block.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Self) -> Result<T> + Send + 'static) -> Result<T> {
        let this = self.clone();
        finished(tokio::task::spawn_blocking(move || work(&this)).await)
    }

    fn open(&self, key: &Key) -> Result<(PathBuf, File)> {
        let path = self.path(key)?;
        match File::open(&path).and_then(|file| file.metadata().map(|meta| meta.is_file().then_some(file))) {
            Ok(Some(file)) => Ok((path, file)),
            Ok(None) => Err(Error::NotFound(key.to_string())),
            Err(error) if is_absence(&error) => Err(Error::NotFound(key.to_string())),
            Err(error) => Err(refusal("read", &path, error)),
        }
    }
}

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

fn meta(metadata: &Metadata) -> Meta {
    let modified = metadata.modified().map_or(OffsetDateTime::UNIX_EPOCH, OffsetDateTime::from);
    Meta { size: metadata.len(), etag: etag(metadata), modified }
}

/// The version of a file: its inode, its size and the nanoseconds of its modification time.
///
/// A replaced object has a new inode, but a file system may use a freed inode again, so two versions may have the same inode
/// and the same size. The nanoseconds tell them apart; a touch changes only the seconds. They also tell versions apart where
/// a file was changed in place by other means, which the creation time would not.
fn etag(metadata: &Metadata) -> ETag {
    ETag::new(&format!("{:x}-{:x}-{:x}", metadata.ino(), metadata.size(), metadata.mtime_nsec()))
}

/// The bytes of `range`. An open file is one version, since a replaced object is another file.
fn read(path: PathBuf, file: File, range: ByteRange) -> ByteStream {
    let source = Arc::new((path, file));
    let mut next = range.start();
    let steps = std::iter::from_fn(move || {
        let step = ByteRange::new(next, range.end().min(next + READ_BYTES))?;
        next = step.end();
        Some(step)
    });
    stream::iter(steps)
        .map(move |step| {
            let source = Arc::clone(&source);
            let reading = tokio::task::spawn_blocking(move || read_step(&source.0, &source.1, step));
            async move { finished(reading.await) }
        })
        .buffered(READS_AT_ONCE)
        .boxed()
}

fn read_step(path: &Path, file: &File, step: ByteRange) -> Result<Bytes> {
    let want = usize::try_from(step.len()).unwrap_or(usize::MAX);
    let mut bytes = Vec::with_capacity(want);
    while bytes.len() < want {
        let offset = step.start() + bytes.len() as u64;
        let count = rustix::io::retry_on_intr(|| rustix::io::pread(file, rustix::buffer::spare_capacity(&mut bytes), offset))
            .map_err(|errno| refusal("read", path, errno.into()))?;
        if count == 0 {
            return Err(Error::Unavailable(format!("{} ended at byte {offset}, before byte {}", path.display(), step.end())));
        }
    }
    bytes.truncate(want);
    Ok(bytes.into())
}

fn finished<T>(outcome: Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    outcome.unwrap_or_else(|error| Err(Error::Internal { message: "a disk task broke off".to_owned(), source: Some(Arc::new(error)) }))
}
