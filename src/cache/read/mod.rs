//! Reads: the ladder that every read of a blob goes down, rung by rung, until one has the blob.
//!
//! 1. The session's documents, in memory (`document`).
//! 2. The disk cache, or a fill that is under way (`disk`); `fill` does the work of a fill.
//! 3. A read that read-ahead has begun (`read_ahead`).
//! 4. The store of the bucket (`bucket`).
//!
//! In: a grant, a digest and a range. Out: a body whose bytes are verified (`verify`). Lookups that read nothing are here,
//! too (`lookup`), as are manifests as they are stored (`manifest`).

mod bucket;
mod disk;
mod fetch;
mod kept;
mod lookup;
mod manifest;
mod read_ahead;
mod session_document;
mod verify;
mod wait_for_store;

use std::future::Future;
use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _};

use self::bucket::{BlobSource, BucketReads};
use self::disk::DiskReads;
use self::fetch::Fetcher;
use self::read_ahead::{IntoDisk, Predictions, Sequential};
use self::verify::Verifier;
use super::disk::Disk;
use super::known::{Hits, Known};
use super::{BlobInfo, BlobRead, CacheConfig, Error, Outgoing, Result};
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::store::{GuardedStore, Object, Stores};
use crate::transfer::Downloads;
use crate::types::{ByteRange, Digest, Grant, ManifestName, Right, Scope};

pub(crate) use self::kept::KeptReads;
pub(super) use self::lookup::Lookups;
pub use self::manifest::Manifest;
pub(super) use self::manifest::ManifestReader;

/// What reads are made from.
pub(super) struct Parts {
    pub(super) stores: Arc<Stores>,
    pub(super) known: Known,
    pub(super) hits: Hits,
    pub(super) manifests: ManifestReader,
    pub(super) disk: Option<Arc<Disk>>,
    /// Bytes that reads may keep buffered, all together.
    pub(super) memory: u64,
    pub(super) metrics: Metrics,
    pub(super) shutdown: Shutdown,
}

/// Reads blobs.
#[derive(Debug)]
pub(super) struct Reads {
    stores: Arc<Stores>,
    lookups: Arc<Lookups>,
    middle: Middle,
    bucket: BucketReads,
    predictions: Predictions,
    hits: Hits,
}

/// The rungs between the session's documents and the bucket.
#[derive(Debug)]
enum Middle {
    Disk(DiskReads),
    ReadAhead(Sequential),
}

impl Reads {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { stores, known, hits, manifests, disk, memory, metrics, shutdown } = parts;
        let lookups = Arc::new(Lookups::new(Arc::clone(&stores), known.clone(), manifests, metrics.clone()));
        let verifier = Verifier::new(known.clone(), disk.clone(), metrics.clone());
        let bucket = BucketReads::new(Downloads::new(memory, metrics.clone()), known.clone(), verifier);
        let predictions = Predictions::new();
        let middle = match disk {
            Some(disk) => {
                let fetcher = Fetcher::new(Arc::clone(&disk), bucket.clone(), metrics.clone(), shutdown.clone());
                let into_disk = Arc::new(IntoDisk::new(Arc::clone(&disk), fetcher, predictions.clone(), shutdown));
                Middle::Disk(DiskReads::new(disk, into_disk, Arc::clone(&lookups), bucket.clone(), known, metrics))
            }
            None => Middle::ReadAhead(Sequential::new(bucket.clone(), predictions.clone(), metrics, shutdown)),
        };
        Self { stores, lookups, middle, bucket, predictions, hits }
    }

    /// Lookups that read nothing.
    pub(super) fn lookups(&self) -> &Arc<Lookups> {
        &self.lookups
    }

    /// Reads a blob or a part of it. A range that ends behind the blob is cut to it. A blob that is read whole is verified:
    /// the last of its bytes come when all are right.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::OutOfRange`] for a range that begins behind the blob, [`Error::Denied`], or the
    /// store's. In the body also [`Error::Corrupt`] where the bytes are not right.
    pub(super) async fn read(&self, grant: &Grant, digest: &Digest, range: Option<ByteRange>) -> Result<BlobRead> {
        if let Some(document) = session_document::of(grant, digest) {
            return session_document::read(*digest, &document, range);
        }
        grant.check_blob(Right::Read, digest)?;
        let source = self.source(grant, digest)?;
        let read = match &self.middle {
            Middle::Disk(disk) => disk.read(grant, &source, range).await?,
            Middle::ReadAhead(read_ahead) if is_sequential(grant, &source, range) => Some(read_ahead.read(grant, &source).await?),
            Middle::ReadAhead(_) => None,
        };
        let read = match read {
            Some(read) => read,
            None => self.bucket.read(&source, range).await?,
        };
        Ok(self.counted(grant, read))
    }

    /// Reads a blob as [`Self::read`] does. An import of a build waits for its store to be back: up to a minute, or for 7 s
    /// where the build is then run again without its cache.
    ///
    /// # Errors
    /// Those of [`Self::read`].
    pub(super) async fn read_promised(&self, grant: &Grant, digest: &Digest, range: Option<ByteRange>) -> Result<BlobRead> {
        let read = self.promised(grant, digest, || self.read(grant, digest, range)).await;
        if let (Err(Error::NotFound(_) | Error::Corrupt(_)), Some(losses)) = (&read, grant.losses()) {
            losses.promises().break_one();
        }
        read
    }

    /// Makes a lookup of a blob that a served manifest names, and waits as [`Self::read_promised`] does.
    ///
    /// # Errors
    /// Those of `look`.
    pub(super) async fn promised<T, F>(&self, grant: &Grant, digest: &Digest, look: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        wait_for_store::promised(&self.stores, grant, digest, look).await
    }

    /// Reads a blob as it is stored: nothing is verified, and one in quarantine is read too.
    ///
    /// # Errors
    /// Those of [`Self::read`].
    pub(super) async fn read_stored(&self, grant: &Grant, digest: &Digest) -> Result<BlobRead> {
        grant.check_blob(Right::Read, digest)?;
        let object = self.bucket.open(&self.source(grant, digest)?, None).await?;
        let body = Box::pin(object.body.map_err(Error::from));
        Ok(BlobRead { info: BlobInfo::new(*digest, object.meta), range: object.range, body })
    }

    /// Opens a stored blob to be verified by its digest.
    pub(super) async fn open_stored(&self, grant: &Grant, digest: &Digest) -> Result<Object> {
        self.bucket.open(&self.source(grant, digest)?, None).await
    }

    /// The body of a stored blob, which ends in an error where it is not what it should be.
    pub(super) fn verified(&self, scope: &Scope, digest: &Digest, object: Object) -> Outgoing {
        let body: Outgoing = Box::pin(object.body.map_err(Error::from));
        self.bucket.verifier.verified(scope, digest, &object.meta, body)
    }

    /// Records a manifest that a build is served: what it reads next is predicted from that.
    pub(super) fn expect(&self, grant: &Grant, name: &ManifestName, config: &CacheConfig) {
        // Without a disk cache, read-ahead is for builds that read over their session.
        if matches!(self.middle, Middle::Disk(_)) || grant.is_session() {
            self.predictions.learn(grant.scope(), name, config);
        }
    }

    fn source(&self, grant: &Grant, digest: &Digest) -> Result<BlobSource> {
        let store: Arc<dyn GuardedStore> = self.stores.store(grant.scope())?;
        Ok(BlobSource { scope: Arc::new(grant.scope().clone()), store, digest: *digest })
    }

    /// Counts a read for the build that makes it.
    fn counted(&self, grant: &Grant, read: BlobRead) -> BlobRead {
        let BlobRead { info, range, body } = read;
        grant.usage().blob_served();
        if let Some(name) = grant.imported() {
            self.hits.record_read(grant.scope(), name, info.digest);
        }
        let reader = grant.clone();
        let body = body.inspect(move |chunk| match chunk {
            Ok(chunk) => reader.usage().sent(chunk.len() as u64),
            // Whoever reads has waited for its store already.
            Err(_) => reader.losses().into_iter().for_each(|losses| losses.promises().break_one()),
        });
        BlobRead { info, range, body: Box::pin(body) }
    }
}

/// Whether a build reads this blob as one of many, one after the other, over its session.
fn is_sequential(grant: &Grant, source: &BlobSource, range: Option<ByteRange>) -> bool {
    grant.is_session() && range.is_none() && source.store.prefers_multipart()
}
