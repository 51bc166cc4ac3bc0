//! Calls of builds that go on without their cache when the store fails.
//!
//! Each call does what the room's own call does, and then handles an outage as the grant allows (see `outage`): a lookup
//! becomes a miss, and the first write that fails drops the export. Endpoints only translate the outcome.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;

use super::layout::Item;
use super::manifests::Manifests;
use super::outage::{self, Export};
use super::read::Lookups;
use super::uploads::Uploads;
use super::write::Writes;
use super::{BlobInfo, Condition, Error, Incoming, Manifest, ManifestInfo, NewPart, Result, UploadId};
use crate::metrics::Metrics;
use crate::types::{Digest, ETag, Grant, ManifestName, Right};

/// The calls of a build.
#[derive(Debug)]
pub struct Tolerant {
    lookups: Arc<Lookups>,
    writes: Arc<Writes>,
    manifests: Arc<Manifests>,
    uploads: Arc<Uploads>,
    metrics: Metrics,
}

impl Tolerant {
    pub(super) fn new(
        lookups: Arc<Lookups>,
        writes: Arc<Writes>,
        manifests: Arc<Manifests>,
        uploads: Arc<Uploads>,
        metrics: Metrics,
    ) -> Self {
        Self { lookups, writes, manifests, uploads, metrics }
    }

    /// Looks a blob up.
    ///
    /// # Errors
    /// Those of [`Blobs::stat`](super::Blobs::stat); an outage is [`Error::NotFound`].
    pub async fn stat_blob(&self, grant: &Grant, digest: &Digest) -> Result<BlobInfo> {
        outage::or_miss(grant, &Item::Blob(*digest), self.lookups.stat(grant, digest).await)
    }

    /// Looks a manifest up.
    ///
    /// # Errors
    /// Those of [`Manifests::stat`]; an outage is [`Error::NotFound`].
    pub async fn stat_manifest(&self, grant: &Grant, name: &ManifestName) -> Result<ManifestInfo> {
        outage::or_miss(grant, &Item::Manifest(name.clone()), self.manifests.stat(grant, name).await)
    }

    /// Reads a manifest for a build.
    ///
    /// # Errors
    /// Those of [`Manifests::import`]; an outage is [`Error::NotFound`].
    pub async fn import(&self, grant: &Grant, name: &ManifestName) -> Result<Manifest> {
        outage::or_miss(grant, &Item::Manifest(name.clone()), self.manifests.import(grant, name).await)
    }

    /// Looks up a blob that its caller would write otherwise. Of an export that is dropped, nothing needs to be written.
    ///
    /// # Errors
    /// Those of [`Blobs::find_to_reuse`](super::Blobs::find_to_reuse) that are no outage.
    pub async fn find_to_reuse(&self, grant: &Grant, digest: &Digest) -> Result<Export<BlobInfo>> {
        self.writes.find_for_export(grant, digest).await
    }

    /// Stores a blob that arrives whole, if `check` passes.
    ///
    /// # Errors
    /// Those of `check`, and those of [`Blobs::put`](super::Blobs::put) that are no outage.
    pub async fn put_blob<E: From<Error>>(
        &self,
        grant: &Grant,
        digest: &Digest,
        size: u64,
        body: Incoming,
        check: impl Future<Output = Result<(), E>>,
    ) -> Result<Export<BlobInfo>, E> {
        if outage::is_dropped(grant) {
            return Ok(Export::Dropped);
        }
        check.await?;
        Ok(outage::or_dropped(grant, self.writes.put(grant, digest, size, body).await)?)
    }

    /// Checks a manifest of `size` bytes before it is read. One that is too large drops its export, which the call that
    /// follows then finds.
    ///
    /// # Errors
    /// [`Error::Denied`], or [`Error::Exhausted`] above the bound.
    pub fn admit_manifest(&self, grant: &Grant, name: &ManifestName, size: u64) -> Result<()> {
        if outage::is_dropped(grant) {
            return Ok(());
        }
        grant.check_manifest(Right::Write, name)?;
        outage::or_dropped(grant, self.manifests.check_size(size)).map(|_| ())
    }

    /// Publishes a manifest. Of an export that is dropped, `document` is not read.
    ///
    /// # Errors
    /// Those of `document`, and those of [`Manifests::publish`] that are no outage.
    pub async fn publish(
        &self,
        grant: &Grant,
        name: &ManifestName,
        document: impl Future<Output = Result<Bytes>>,
        condition: Condition,
    ) -> Result<Export<ETag>> {
        let publish = async { self.manifests.publish(grant, name, document.await?, condition).await };
        let published = outage::unless_dropped(grant, publish).await?;
        Ok(self.counted(published))
    }

    /// Checks a part of `size` bytes before it is read. A manifest with a part that is too large drops its export.
    ///
    /// # Errors
    /// [`Error::Exhausted`] above the bound.
    pub fn admit_part(&self, grant: &Grant, item: &Item, size: u64) -> Result<()> {
        match item {
            Item::Manifest(_) if !outage::is_dropped(grant) => outage::or_dropped(grant, self.manifests.check_size(size)).map(|_| ()),
            Item::Blob(_) | Item::Manifest(_) => Ok(()),
        }
    }

    /// Begins an upload.
    ///
    /// # Errors
    /// Those of [`Uploads::begin`] that are no outage.
    pub async fn begin_upload(&self, grant: &Grant, item: Item) -> Result<Export<UploadId>> {
        outage::unless_dropped(grant, async { self.uploads.begin(grant, item) }).await
    }

    /// Takes one part of an upload.
    ///
    /// # Errors
    /// Those of [`Uploads::take_part`] that are no outage.
    pub async fn take_part(&self, grant: &Grant, item: &Item, id: &UploadId, part: NewPart) -> Result<Export<ETag>> {
        outage::unless_dropped(grant, self.uploads.take_part(grant, item, id, part)).await
    }

    /// Checks the size of what the parts `numbers` join to. A manifest that is too large drops its export.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown upload, or [`Error::Exhausted`] above the bound.
    pub fn admit_parts(&self, grant: &Grant, item: &Item, id: &UploadId, numbers: &[u16]) -> Result<()> {
        if outage::is_dropped(grant) || matches!(item, Item::Blob(_)) {
            return Ok(());
        }
        let sent = self.uploads.parts(grant, item, id)?;
        let size = sent.iter().filter(|sent| numbers.contains(&sent.number)).map(|part| part.size).sum();
        outage::or_dropped(grant, self.manifests.check_size(size)).map(|_| ())
    }

    /// Completes an upload.
    ///
    /// # Errors
    /// Those of [`Uploads::complete`] that are no outage.
    pub async fn complete_upload(
        &self,
        grant: &Grant,
        item: &Item,
        id: &UploadId,
        parts: &[(u16, ETag)],
        condition: Condition,
    ) -> Result<Export<ETag>> {
        let stored = outage::unless_dropped(grant, self.uploads.complete(grant, item, id, parts, condition)).await?;
        if matches!(stored, Export::Dropped) {
            // What it has in the spool is of no use. The upload may not have got that far, and then there is nothing to abort.
            let _ = self.uploads.abort(grant, item, id).await;
        }
        match item {
            Item::Blob(_) => Ok(stored),
            Item::Manifest(_) => Ok(self.counted(stored)),
        }
    }

    /// Counts a manifest that was dropped: the end of an export.
    fn counted<T>(&self, published: Export<T>) -> Export<T> {
        if matches!(published, Export::Dropped) {
            self.metrics.export_dropped();
        }
        published
    }
}
