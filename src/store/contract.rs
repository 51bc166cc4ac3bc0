//! What every store must do: the trait [`Store`], what its calls take and return, and why they fail.

use std::fmt;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::Stream;
use time::OffsetDateTime;

use crate::types::{ByteRange, ETag, Key};

/// Written and deleted by [`Store::check`]. It is one key, so that at most one object stays behind where the credentials
/// may not delete.
pub(super) const CHECK_LEAF: &str = ".remora-check";

/// One bucket. A new backend implements this trait alone, and [`RemoteStore`](super::RemoteStore) where it is reached over
/// a network: then [`Guarded`](super::Guarded) adds deadlines, retries and a breaker.
///
/// Any method may fail with [`Error::Denied`], [`Error::Exhausted`], [`Error::Unavailable`] or
/// [`Error::Internal`]. A failed lookup is never reported as absence.
#[async_trait]
pub trait Store: fmt::Debug + Send + Sync + 'static {
    /// The store as a URL for people: `s3://bucket`, `file:///dir/bucket`. No secrets.
    fn url(&self) -> String;

    /// What is known of an object without reading it. [`Error::NotFound`] where there is none.
    async fn head(&self, key: &Key) -> Result<Meta>;

    /// Reads an object, or a part of it. All bytes come from one version of the object.
    ///
    /// A `range` that ends behind the object is cut to it; a range that begins behind it is [`Error::Invalid`]. With
    /// `version`, an object of another version is [`Error::Precondition`]. The body yields exactly the range's bytes or
    /// ends in an error. Dropping it stops the transfer.
    async fn get(&self, key: &Key, range: Option<ByteRange>, version: Option<&ETag>) -> Result<Object>;

    /// Stores an object whole: readers see either the old object or the new one, never a part, and the new one is durable
    /// when this returns. A `condition` that does not hold is [`Error::Precondition`] and changes nothing. Of two
    /// concurrent calls with [`Condition::Absent`] one fails. A store that does not support conditions answers calls that
    /// have one with [`Error::Unsupported`].
    async fn put(&self, key: &Key, body: Body, condition: Condition) -> Result<ETag>;

    /// Begins an object that arrives in parts. Nothing is visible before [`Store::complete_multipart`].
    async fn begin_multipart(&self, key: &Key) -> Result<MultipartId>;

    /// Stores part `number` (1 to 10,000) of an upload. A part that is sent again replaces the earlier one. All parts but the
    /// last have at least 5 MiB (S3's rule). An unknown `id` is [`Error::NotFound`].
    async fn put_part(&self, key: &Key, id: &MultipartId, number: u16, body: Body) -> Result<Part>;

    /// Joins the parts, in the given order, to the object, as atomically as [`Store::put`] does.
    async fn complete_multipart(&self, key: &Key, id: &MultipartId, parts: &[Part], condition: Condition) -> Result<ETag>;

    /// Aborts an upload and drops its parts. An unknown `id` is no error.
    async fn abort_multipart(&self, key: &Key, id: &MultipartId) -> Result<()>;

    /// The uploads of exactly this key that are neither complete nor aborted, each with when it was begun by the store's
    /// clock (whole seconds on S3). At most 1,000, the oldest. None where the store itself drops unfinished uploads.
    async fn list_multipart(&self, _key: &Key) -> Result<Vec<(MultipartId, OffsetDateTime)>> {
        Ok(Vec::new())
    }

    /// Makes the object young again for lifecycle rules. Its bytes do not change.
    async fn touch(&self, key: &Key) -> Result<()>;

    /// Deletes an object. A missing one is no error.
    async fn delete(&self, key: &Key) -> Result<()>;

    /// At most `limit` (1 to 1,000) of the objects whose whole key begins with `prefix`, which need not end at a slash. They
    /// are in the order of their keys' bytes and begin behind `after`.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page>;

    /// Whether a large object moves faster with several requests at once (ranges, parts) than with one request.
    fn prefers_multipart(&self) -> bool;

    /// Checks that the store can be reached and written, by a small write that leaves nothing behind.
    async fn check(&self) -> Result<()> {
        let key = Key::new("", CHECK_LEAF);
        self.put(&key, Body::Bytes(Bytes::from_static(b"remora")), Condition::None).await?;
        self.delete(&key).await
    }
}

/// The bytes that a read of `range` yields of an object of `size` bytes; `None` for all of an empty object.
pub(super) fn cut_to_object(key: &Key, range: Option<ByteRange>, size: u64) -> Result<Option<ByteRange>> {
    match range {
        Some(range) if range.start() >= size => Err(Error::Invalid(format!("{key} has {size} bytes: none from {} on", range.start()))),
        Some(range) => Ok(ByteRange::new(range.start(), range.end().min(size))),
        None => Ok(ByteRange::new(0, size)),
    }
}

/// What a store knows of an object without reading it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Meta {
    /// Bytes.
    pub size: u64,
    /// The version.
    pub etag: ETag,
    /// When it was last stored or touched; whole seconds on S3.
    pub modified: OffsetDateTime,
}

/// An object that is being read.
pub struct Object {
    /// What is known of the whole object, also where only a part of it is read.
    pub meta: Meta,
    /// Where the bytes of `body` lie in the object; `None` for an empty object.
    pub range: Option<ByteRange>,
    /// The bytes.
    pub body: ByteStream,
}

impl fmt::Debug for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Object").field("meta", &self.meta).field("range", &self.range).finish_non_exhaustive()
    }
}

/// Bytes in order, in chunks of the producer's choice.
pub type ByteStream = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// What is to be stored.
#[derive(Debug, Clone)]
pub enum Body {
    /// Bytes in memory.
    Bytes(Bytes),
    /// Bytes of a finished local file. A directory store may keep the file itself (as a hard link), so it must not be
    /// written again.
    File {
        /// The file.
        path: PathBuf,
        /// Offset of the first byte to store.
        offset: u64,
        /// How many bytes to store.
        len: u64,
    },
}

impl Body {
    /// How many bytes.
    #[must_use]
    pub fn len(&self) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::File { len, .. } => *len,
        }
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// When a write may happen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Condition {
    /// Always.
    #[default]
    None,
    /// Only if there is no object yet (`If-None-Match: *`).
    Absent,
    /// Only if the object has this version (`If-Match`).
    Matches(ETag),
}

/// An unfinished multipart upload.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MultipartId(pub String);

/// A part that was stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Part {
    /// 1 to 10,000.
    pub number: u16,
    /// The part's version.
    pub etag: ETag,
}

/// Some of the objects below a prefix.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// The whole key of each object, and what is known of it.
    pub entries: Vec<(String, Meta)>,
    /// Whether there are more behind the last entry.
    pub more: bool,
}

/// Why a store could not do what it was asked. There is one variant for each decision that a caller can take.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// There is no such object, bucket or upload.
    #[error("not found: {0}")]
    NotFound(String),
    /// The condition of the call does not hold.
    #[error("the object {0} is not the version that the call was made for")]
    Precondition(String),
    /// The store refuses these credentials, or this action to them.
    #[error("access denied by the store: {0}")]
    Denied(String),
    /// The call cannot succeed as it is.
    #[error("invalid: {0}")]
    Invalid(String),
    /// The store does not support this call or its condition.
    #[error("not supported by the store: {0}")]
    Unsupported(String),
    /// There is no room left, or the store is throttling: trying again later may help.
    #[error("exhausted: {0}")]
    Exhausted(String),
    /// The store did not answer, or broke off its answer.
    #[error("store unavailable: {0}")]
    Unavailable(String),
    /// Anything else.
    #[error("store error: {message}")]
    Internal {
        /// What was being done.
        message: String,
        /// What went wrong.
        #[source]
        source: Option<Arc<dyn std::error::Error + Send + Sync>>,
    },
}

/// A store's result.
pub type Result<T, E = Error> = std::result::Result<T, E>;
