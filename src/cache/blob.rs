//! What all rooms say of a blob, and the streams that carry one.

use std::pin::Pin;

use bytes::Bytes;
use futures_util::Stream;
use time::OffsetDateTime;

use super::Result;
use crate::store::Meta;
use crate::types::{ByteRange, Digest, ETag};

/// Bytes on their way in, whatever protocol they came by.
pub type Incoming = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;
/// Bytes on their way out.
pub type Outgoing = Pin<Box<dyn Stream<Item = Result<Bytes>> + Send>>;

/// What is known of a stored blob.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlobInfo {
    /// Its name.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// The version of the object that holds it.
    pub etag: ETag,
    /// When it was last stored or touched.
    pub modified: OffsetDateTime,
}

impl BlobInfo {
    pub(super) fn new(digest: Digest, meta: Meta) -> Self {
        Self { digest, size: meta.size, etag: meta.etag, modified: meta.modified }
    }

    /// Of a blob that no store holds: it has no version but its own name.
    pub(super) fn unstored(digest: Digest, size: u64) -> Self {
        Self { digest, size, etag: ETag::new(&digest.to_string()), modified: OffsetDateTime::now_utc() }
    }
}

/// A blob that is being read.
pub struct BlobRead {
    /// The whole blob.
    pub info: BlobInfo,
    /// What part of it `body` is; `None` for an empty blob.
    pub range: Option<ByteRange>,
    /// The bytes.
    pub body: Outgoing,
}

impl std::fmt::Debug for BlobRead {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("BlobRead").field("info", &self.info).field("range", &self.range).finish_non_exhaustive()
    }
}
