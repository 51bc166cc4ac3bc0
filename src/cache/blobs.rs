//! Blobs, for callers: each call goes to the room that does it.

use std::future::Future;
use std::sync::Arc;

use super::read::Reads;
use super::write::Writes;
use super::{BlobInfo, BlobRead, Incoming, Result};
use crate::types::{ByteRange, Digest, Grant};

/// The blobs of a cache.
#[derive(Debug)]
pub struct Blobs {
    reads: Arc<Reads>,
    writes: Arc<Writes>,
}

impl Blobs {
    pub(super) fn new(reads: Arc<Reads>, writes: Arc<Writes>) -> Self {
        Self { reads, writes }
    }

    /// Looks a blob up. A build's grant is answered from memory where the blob was seen lately: what the
    /// build makes of the answer is checked again when it publishes.
    ///
    /// # Errors
    /// [`Error::NotFound`](super::Error::NotFound), [`Error::Denied`](super::Error::Denied), or the store's.
    pub async fn stat(&self, grant: &Grant, digest: &Digest) -> Result<BlobInfo> {
        self.reads.lookups().stat(grant, digest).await
    }

    /// The size in bytes of a blob that was seen lately. Asks no store: what has a digest keeps its size.
    ///
    /// # Errors
    /// [`Error::Denied`](super::Error::Denied).
    pub fn remembered_size(&self, grant: &Grant, digest: &Digest) -> Result<Option<u64>> {
        self.reads.lookups().remembered_size(grant, digest)
    }

    /// Blobs behind `after`, in the order of their digests, at most `limit` (1 to 1,000); and whether there are more.
    ///
    /// # Errors
    /// [`Error::Denied`](super::Error::Denied), or the store's.
    pub async fn list(&self, grant: &Grant, after: Option<&Digest>, limit: usize) -> Result<(Vec<BlobInfo>, bool)> {
        self.reads.lookups().list(grant, after, limit).await
    }

    /// Reads a blob or a part of it. A range that ends behind the blob is cut to it. A blob that is read whole is verified:
    /// the last of its bytes come when all are right. The bytes come from the disk cache where that has them.
    ///
    /// # Errors
    /// [`Error::NotFound`](super::Error::NotFound), [`Error::OutOfRange`](super::Error::OutOfRange) for a range that begins
    /// behind the blob, [`Error::Denied`](super::Error::Denied), or the store's. In the body also
    /// [`Error::Corrupt`](super::Error::Corrupt) where the bytes are not right.
    pub async fn read(&self, grant: &Grant, digest: &Digest, range: Option<ByteRange>) -> Result<BlobRead> {
        self.reads.read(grant, digest, range).await
    }

    /// Reads a blob as [`Blobs::read`] does. An import of a build waits for its store to be back: up to a minute, or for 7 s
    /// where the build is then run again without its cache.
    ///
    /// # Errors
    /// Those of [`Blobs::read`].
    pub async fn read_promised(&self, grant: &Grant, digest: &Digest, range: Option<ByteRange>) -> Result<BlobRead> {
        self.reads.read_promised(grant, digest, range).await
    }

    /// Makes a lookup of a blob that a served manifest names, and waits as [`Blobs::read_promised`] does.
    ///
    /// # Errors
    /// Those of `look`.
    pub async fn promised<T, F>(&self, grant: &Grant, digest: &Digest, look: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.reads.promised(grant, digest, look).await
    }

    /// Reads a blob as it is stored, to look at it: nothing is verified, and one in quarantine is read too.
    ///
    /// # Errors
    /// Those of [`Blobs::read`].
    pub async fn read_stored(&self, grant: &Grant, digest: &Digest) -> Result<BlobRead> {
        self.reads.read_stored(grant, digest).await
    }

    /// Stores a blob that arrives whole. `size` is what the caller announced.
    ///
    /// # Errors
    /// [`Error::Precondition`](super::Error::Precondition) where the bytes do not have that digest or size,
    /// [`Error::Exhausted`](super::Error::Exhausted) with the spool full, [`Error::Denied`](super::Error::Denied), or the
    /// store's. Nothing is visible after an error.
    pub async fn put(&self, grant: &Grant, digest: &Digest, size: u64, body: Incoming) -> Result<BlobInfo> {
        self.writes.put(grant, digest, size, body).await
    }

    /// Looks up a blob before its caller sends it. One that is old is queued for a touch, and is reported as young from
    /// now on.
    ///
    /// # Errors
    /// Those of [`Blobs::stat`].
    pub async fn find_to_reuse(&self, grant: &Grant, digest: &Digest) -> Result<BlobInfo> {
        self.writes.find_to_reuse(grant, digest).await
    }

    /// Makes a blob young again for lifecycle rules; a build does not wait for it. `None`: the store has failed, and this
    /// build may go on without the touch.
    ///
    /// # Errors
    /// [`Error::NotFound`](super::Error::NotFound), [`Error::Denied`](super::Error::Denied), or the store's.
    pub async fn keep_young(&self, grant: &Grant, digest: &Digest) -> Result<Option<BlobInfo>> {
        self.writes.keep_young(grant, digest).await
    }

    /// Touches a blob in the background. The answer says that it is young already.
    ///
    /// # Errors
    /// [`Error::Denied`](super::Error::Denied).
    pub fn touch_later(&self, grant: &Grant, blob: BlobInfo) -> Result<BlobInfo> {
        self.writes.touches().later(grant, blob)
    }

    /// Deletes a blob and its labels.
    ///
    /// # Errors
    /// [`Error::NotFound`](super::Error::NotFound), [`Error::Denied`](super::Error::Denied), or the store's.
    pub async fn delete(&self, grant: &Grant, digest: &Digest) -> Result<()> {
        self.writes.delete(grant, digest).await
    }
}
