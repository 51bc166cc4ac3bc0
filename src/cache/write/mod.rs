//! Writes: how a blob gets into the cache.
//!
//! In: bodies of unknown worth, and questions whether a blob needs to be sent at all. They are received into memory or the
//! spool (`receive`, `spool`), and become blobs when they have the right digest: in the journal, where the grant is for
//! that, else in the store. A blob that is there already is found (`reuse`) and kept young (`touch`). Out: what is known of
//! the stored blob.

pub(in crate::cache) mod receive;
mod reuse;
pub(in crate::cache) mod spool;
mod touch_queue;

use std::future::pending;
use std::sync::Arc;

use time::OffsetDateTime;

use self::receive::check_digest;
use self::reuse::Reuse;
use super::disk::Disk;
use super::journal::Journal;
use super::known::Known;
use super::outage::{self, Export};
use super::read::Lookups;
use super::{BlobInfo, Condition, Incoming, Result, layout};
use crate::metrics::Metrics;
use crate::store::{Meta, Stores};
use crate::transfer::{MultipartUploads, Payload, SINGLE_PUT_BYTES, Upload};
use crate::types::{Digest, Durability, ETag, Grant, Hasher, Right, Sums};

pub(super) use self::receive::Intake;
pub(super) use self::touch_queue::Touches;

/// What writes are made from.
pub(super) struct Parts {
    pub(super) stores: Arc<Stores>,
    pub(super) known: Known,
    pub(super) disk: Option<Arc<Disk>>,
    pub(super) lookups: Arc<Lookups>,
    pub(super) intake: Intake,
    pub(super) multipart: MultipartUploads,
    pub(super) journal: Option<Journal>,
    pub(super) metrics: Metrics,
}

/// Writes blobs.
#[derive(Debug)]
pub(super) struct Writes {
    stores: Arc<Stores>,
    known: Known,
    disk: Option<Arc<Disk>>,
    lookups: Arc<Lookups>,
    intake: Intake,
    multipart: MultipartUploads,
    journal: Option<Journal>,
    touches: Arc<Touches>,
    reuse: Reuse,
}

impl Writes {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { stores, known, disk, lookups, intake, multipart, journal, metrics } = parts;
        let touches = Arc::new(Touches::new(Arc::clone(&stores), known.clone(), metrics));
        let reuse = Reuse::new(Arc::clone(&lookups), known.clone(), Arc::clone(&touches));
        Self { stores, known, disk, lookups, intake, multipart, journal, touches, reuse }
    }

    /// Takes bodies on their way in.
    pub(super) fn intake(&self) -> &Intake {
        &self.intake
    }

    /// Keeps blobs young.
    pub(super) fn touches(&self) -> &Arc<Touches> {
        &self.touches
    }

    /// The journal, where what is written under this grant goes there.
    pub(super) fn journal(&self, grant: &Grant) -> Option<&Journal> {
        self.journal.as_ref().filter(|_| grant.durability() == Durability::Local)
    }

    /// Stores a blob that arrives whole. `size` is what the caller announced.
    ///
    /// # Errors
    /// [`Error::Precondition`](super::Error::Precondition) where the bytes do not have that digest or size,
    /// [`Error::Exhausted`](super::Error::Exhausted) with the spool full, [`Error::Denied`](super::Error::Denied), or the
    /// store's. Nothing is visible after an error.
    pub(super) async fn put(&self, grant: &Grant, digest: &Digest, size: u64, mut body: Incoming) -> Result<BlobInfo> {
        grant.check_blob(Right::Write, digest)?;
        let mut hasher = Hasher::default();
        let payload = self.intake.receive(&format!("blob {digest}"), size, &mut body, pending(), |bytes| hasher.update(bytes)).await?;
        let sums = hasher.finish();
        check_digest(digest, &sums.digest)?;
        self.publish(grant, &sums, &payload).await
    }

    /// Makes verified bytes a blob: in the journal, where the grant is for that and there is room, else in the store.
    pub(super) async fn publish(&self, grant: &Grant, sums: &Sums, payload: &Payload) -> Result<BlobInfo> {
        if let Some(journal) = self.journal(grant)
            && let Some(acknowledged) = journal.acknowledge_blob(grant, &sums.digest, payload.body()).await
        {
            return Ok(acknowledged);
        }
        self.store(grant, sums, payload).await
    }

    /// Makes verified bytes a blob in the store.
    pub(super) async fn store(&self, grant: &Grant, sums: &Sums, payload: &Payload) -> Result<BlobInfo> {
        let store = self.stores.store(grant.scope())?;
        let size = payload.body().len();
        // The name is the content, so whoever comes second writes the same bytes.
        let etag = if size > SINGLE_PUT_BYTES && store.prefers_multipart() {
            self.begin_multipart(grant, &sums.digest)?.put(payload, Condition::None).await?
        } else {
            store.put(&layout::blob_key(grant.scope(), &sums.digest), payload.body().clone(), Condition::None).await?
        };
        Ok(self.record_written(grant, sums, size, etag))
    }

    /// Begins a multipart upload of a blob. Its store hears of it with the first part.
    pub(super) fn begin_multipart(&self, grant: &Grant, digest: &Digest) -> Result<Upload> {
        let scope = grant.scope();
        Ok(self.multipart.begin(self.stores.store(scope)?, scope.bucket().clone(), layout::blob_key(scope, digest)))
    }

    /// Whether the store of this grant takes a large blob faster in parts.
    pub(super) fn prefers_multipart(&self, grant: &Grant) -> Result<bool> {
        Ok(self.stores.store(grant.scope())?.prefers_multipart())
    }

    /// Records a blob that was just stored. What was known of an earlier version does not hold any more.
    pub(super) fn record_written(&self, grant: &Grant, sums: &Sums, size: u64, etag: ETag) -> BlobInfo {
        let Sums { digest, crc } = sums;
        grant.usage().blob_written(size);
        let meta = Meta { size, etag, modified: OffsetDateTime::now_utc() };
        self.known.record_written(grant.scope(), digest, meta.clone(), *crc);
        BlobInfo::new(*digest, meta)
    }

    /// Looks up a blob before its caller sends it. One that is old is queued for a touch, and is reported as young from
    /// now on.
    ///
    /// # Errors
    /// Those of [`Lookups::stat`].
    pub(super) async fn find_to_reuse(&self, grant: &Grant, digest: &Digest) -> Result<BlobInfo> {
        self.reuse.find(self.journal(grant), grant, digest).await
    }

    /// Looks up a blob that an export would write otherwise, and counts it as reused. Of an export that is dropped, nothing
    /// needs to be written.
    ///
    /// # Errors
    /// Those of [`Self::find_to_reuse`] that are no outage.
    pub(super) async fn find_for_export(&self, grant: &Grant, digest: &Digest) -> Result<Export<BlobInfo>> {
        let found = outage::unless_dropped(grant, self.find_to_reuse(grant, digest)).await?;
        if let Export::Stored(_) = &found {
            grant.usage().blob_reused();
        }
        Ok(found)
    }

    /// Makes a blob young again for lifecycle rules; a build does not wait for it. `None`: the store has failed, and this
    /// build may go on without the touch.
    ///
    /// # Errors
    /// Those of [`Self::touch`].
    pub(super) async fn keep_young(&self, grant: &Grant, digest: &Digest) -> Result<Option<BlobInfo>> {
        let touched = match grant.names() {
            Some(_) => self.lookups.stat(grant, digest).await.and_then(|found| self.touches.later(grant, found)),
            None => self.touch(grant, digest).await,
        };
        match touched {
            Err(error) if error.is_outage() && grant.losses().is_some() => Ok(None),
            touched => touched.map(Some),
        }
    }

    /// Makes a blob young again for lifecycle rules.
    ///
    /// # Errors
    /// [`Error::NotFound`](super::Error::NotFound), [`Error::Denied`](super::Error::Denied), or the store's.
    async fn touch(&self, grant: &Grant, digest: &Digest) -> Result<BlobInfo> {
        grant.check_blob(Right::Write, digest)?;
        let store = self.stores.store(grant.scope())?;
        let scope = grant.scope();
        let touched = match self.touches.touch(scope, store.as_ref(), digest).await? {
            Some(touched) => Ok(touched),
            None => store.head(&layout::blob_key(scope, digest)).await,
        };
        Ok(BlobInfo::new(*digest, self.lookups.record(scope, digest, touched)?))
    }

    /// Deletes a blob and its labels.
    ///
    /// # Errors
    /// [`Error::NotFound`](super::Error::NotFound), [`Error::Denied`](super::Error::Denied), or the store's.
    pub(super) async fn delete(&self, grant: &Grant, digest: &Digest) -> Result<()> {
        grant.check_blob(Right::Delete, digest)?;
        let store = self.stores.store(grant.scope())?;
        let key = layout::blob_key(grant.scope(), digest);
        // A blob in quarantine is deleted, too.
        store.head(&key).await?;
        store.delete(&key).await?;
        self.known.record_absent(grant.scope(), digest);
        if let Some(disk) = &self.disk {
            disk.forget(digest);
        }
        Ok(store.delete(&layout::labels_key(grant.scope(), digest)).await?)
    }
}
