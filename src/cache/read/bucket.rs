//! The last rung of a read: the store of the blob's bucket.

use std::sync::Arc;

use futures_util::TryStreamExt as _;

use super::verify::Verifier;
use crate::cache::known::Known;
use crate::cache::{BlobInfo, BlobRead, Error, Outgoing, Result, layout};
use crate::store::{self, ByteStream, GuardedStore, Meta, Object};
use crate::transfer::{Downloads, RANGE_BYTES};
use crate::types::{ByteRange, Digest, Scope};

/// Reads blobs from their buckets. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct BucketReads {
    downloads: Downloads,
    known: Known,
    pub(super) verifier: Verifier,
}

/// A blob and the bucket that it is in.
#[derive(Debug, Clone)]
pub(super) struct BlobSource {
    pub(super) scope: Arc<Scope>,
    pub(super) store: Arc<dyn GuardedStore>,
    pub(super) digest: Digest,
}

impl BlobSource {
    /// The bucket and the key of the blob.
    pub(super) fn place(&self) -> String {
        layout::blob_place(&self.scope, &self.digest)
    }
}

impl BucketReads {
    pub(super) fn new(downloads: Downloads, known: Known, verifier: Verifier) -> Self {
        Self { downloads, known, verifier }
    }

    /// Reads a blob or a part of it. A blob that is read whole is verified.
    pub(super) async fn read(&self, source: &BlobSource, range: Option<ByteRange>) -> Result<BlobRead> {
        let BlobSource { scope, digest, .. } = source;
        let object = self.open(source, range).await?;
        self.verifier.admit(scope, digest, &object.meta)?;
        let mut body: Outgoing = Box::pin(object.body.map_err(Error::from));
        if object.range.is_none_or(|range| range.len() == object.meta.size) {
            body = self.verifier.verified(scope, digest, &object.meta, body);
        }
        Ok(BlobRead { info: BlobInfo::new(*digest, object.meta), range: object.range, body })
    }

    /// Reads a blob or a part of it as it is stored: nothing is verified, and a blob in quarantine is read too.
    pub(super) async fn open(&self, source: &BlobSource, range: Option<ByteRange>) -> Result<Object> {
        let BlobSource { scope, store, digest } = source;
        self.downloads.get(store, &layout::blob_key(scope, digest), range).await.map_err(|error| match error {
            store::Error::Invalid(what) => Error::OutOfRange(what),
            store::Error::NotFound(what) => {
                self.known.record_absent(scope, digest);
                Error::NotFound(what)
            }
            other => other.into(),
        })
    }

    /// Reads a blob as it is stored for nobody yet, with one request at a time and none of the memory for transfers.
    pub(super) async fn open_sequential(&self, source: &BlobSource) -> store::Result<Object> {
        let BlobSource { scope, store, digest } = source;
        self.downloads.get_sequential(store, &layout::blob_key(scope, digest)).await
    }

    /// Reads the rest of this version again from `at` on, at full speed, because a reader is waiting for it now. `None` where
    /// they come no faster than with one request at a time.
    pub(super) async fn speed_up(&self, source: &BlobSource, meta: &Meta, at: u64) -> Option<ByteStream> {
        let range = ByteRange::new(at, meta.size).filter(|range| range.len() > RANGE_BYTES)?;
        let key = layout::blob_key(&source.scope, &source.digest);
        let object = self.downloads.get(&source.store, &key, Some(range)).await.ok()?;
        (object.meta.etag == meta.etag).then_some(object.body)
    }
}
