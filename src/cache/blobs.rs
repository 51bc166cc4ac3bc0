//! Blobs: looked up, read, stored whole, touched, listed, deleted.

use std::future::pending;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use time::OffsetDateTime;

use super::write::receive::check_digest;
use super::{Cache, Error, Incoming, Outgoing, Result, layout};
use crate::store::{self, Condition, GuardedStore, Object};
use crate::transfer::{Payload, SINGLE_PUT_BYTES};
use crate::types::{ByteRange, Digest, ETag, Grant, Hasher, Right, Scope, Sums};

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
    pub(super) fn new(digest: Digest, meta: store::Meta) -> Self {
        Self { digest, size: meta.size, etag: meta.etag, modified: meta.modified }
    }

    fn of_document(digest: Digest, document: &Bytes) -> Self {
        let etag = ETag::new(&digest.to_string());
        Self { digest, size: document.len() as u64, etag, modified: OffsetDateTime::now_utc() }
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

impl Cache {
    /// Looks a blob up. A build's grant is answered from memory where the blob was seen lately: what the
    /// build makes of the answer is checked again when it publishes.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Denied`], or the store's.
    pub async fn stat_blob(&self, grant: &Grant, digest: &Digest) -> Result<BlobInfo> {
        grant.check(Right::Exists)?;
        if let Some(document) = document(grant, digest) {
            return Ok(BlobInfo::of_document(*digest, &document));
        }
        let store = self.store(grant)?;
        if let Some(meta) = self.recall(grant, store.as_ref(), digest).await {
            self.0.metrics.answered_from_memory();
            return Ok(BlobInfo::new(*digest, meta));
        }
        let found = store.head(&layout::blob_key(grant.scope(), digest)).await;
        Ok(BlobInfo::new(*digest, self.noted(grant.scope(), digest, found)?))
    }

    /// The size in bytes of a blob that was seen lately. Asks no store: what has a digest keeps its size.
    ///
    /// # Errors
    /// [`Error::Denied`].
    pub fn remembered_size(&self, grant: &Grant, digest: &Digest) -> Result<Option<u64>> {
        if let Some(document) = document(grant, digest) {
            return Ok(Some(document.len() as u64));
        }
        grant.check_blob(Right::Read, digest)?;
        Ok(self.0.known.recall(grant.scope(), digest).map(|meta| meta.size))
    }

    /// Remembers what the store said of a blob.
    fn noted(&self, scope: &Scope, digest: &Digest, found: store::Result<store::Meta>) -> store::Result<store::Meta> {
        match &found {
            Ok(meta) if self.0.known.record_present(scope, digest, meta.clone()) => {}
            Ok(_) => return Err(store::Error::NotFound(quarantined(digest))),
            Err(store::Error::NotFound(_)) => self.0.known.record_absent(scope, digest),
            Err(_) => {}
        }
        found
    }

    /// Reads a blob, or a part of it. A range that ends behind the blob is cut to it. All of a blob's bytes
    /// are checked: the last of them come when they are right. They come from the disk cache where
    /// that has them.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::OutOfRange`] for a range that begins behind the blob,
    /// [`Error::Denied`], or the store's. In the body also [`Error::Corrupt`] where they are not.
    pub async fn read_blob(&self, grant: &Grant, digest: &Digest, range: Option<ByteRange>) -> Result<BlobRead> {
        if let Some(document) = document(grant, digest) {
            return read_document(*digest, &document, range);
        }
        grant.check_blob(Right::Read, digest)?;
        let BlobRead { info, range, body } = match self.read_nearby(grant, digest, range).await? {
            Some(read) => read,
            None => self.read_in_turn(grant, digest, range).await?,
        };
        grant.usage().blob_served();
        if let Some(name) = grant.imported() {
            self.0.hits.record_read(grant.scope(), name, *digest);
        }
        let reader = grant.clone();
        let body = body.inspect(move |piece| match piece {
            Ok(piece) => reader.usage().sent(piece.len() as u64),
            // Whoever reads has waited for its store already.
            Err(_) => reader.losses().into_iter().for_each(|losses| losses.promises().break_one()),
        });
        Ok(BlobRead { info, range, body: Box::pin(body) })
    }

    /// Reads a blob past the disk cache.
    pub(super) async fn read_from_bucket(
        &self,
        scope: &Scope,
        store: &Arc<dyn GuardedStore>,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<BlobRead> {
        let object = self.stored_blob(scope, store, digest, range).await?;
        self.check_quarantine(scope, digest, &object.meta)?;
        let mut body: Outgoing = Box::pin(object.body.map_err(Error::from));
        if object.range.is_none_or(|range| range.len() == object.meta.size) {
            body = self.checked(scope, digest, &object.meta, body);
        }
        Ok(BlobRead { info: BlobInfo::new(*digest, object.meta), range: object.range, body })
    }

    /// Takes note of a version that is about to be read.
    pub(super) fn check_quarantine(&self, scope: &Scope, digest: &Digest, meta: &store::Meta) -> Result<()> {
        if self.0.known.record_present(scope, digest, meta.clone()) { Ok(()) } else { Err(Error::NotFound(quarantined(digest))) }
    }

    /// Reads a blob as it is stored: nothing is verified, and one in quarantine is read too. For a look at it.
    ///
    /// # Errors
    /// As [`Cache::read_blob`].
    pub async fn read_stored_blob(&self, grant: &Grant, digest: &Digest) -> Result<BlobRead> {
        grant.check_blob(Right::Read, digest)?;
        let object = self.stored_blob(grant.scope(), &self.store(grant)?, digest, None).await?;
        let body = Box::pin(object.body.map_err(Error::from));
        Ok(BlobRead { info: BlobInfo::new(*digest, object.meta), range: object.range, body })
    }

    pub(super) async fn stored_blob(
        &self,
        scope: &Scope,
        store: &Arc<dyn GuardedStore>,
        digest: &Digest,
        range: Option<ByteRange>,
    ) -> Result<Object> {
        self.0.downloads.get(store, &layout::blob_key(scope, digest), range).await.map_err(|error| match error {
            store::Error::Invalid(what) => Error::OutOfRange(what),
            store::Error::NotFound(what) => {
                self.0.known.record_absent(scope, digest);
                Error::NotFound(what)
            }
            other => other.into(),
        })
    }

    /// Stores a blob that arrives whole; `size` is what the caller announced.
    ///
    /// # Errors
    /// [`Error::Precondition`] where the bytes do not have that digest or size, [`Error::Exhausted`] with
    /// the spool full, [`Error::Denied`], or the store's. Nothing is visible after an error.
    pub async fn put_blob(&self, grant: &Grant, digest: &Digest, size: u64, mut body: Incoming) -> Result<BlobInfo> {
        grant.check_blob(Right::Write, digest)?;
        let mut hasher = Hasher::default();
        let piece = self.receive(&format!("blob {digest}"), size, &mut body, pending(), |bytes| hasher.update(bytes)).await?;
        let sums = hasher.finish();
        check_digest(digest, &sums.digest)?;
        self.publish_blob(grant, &sums, &piece).await
    }

    /// Makes verified bytes a blob: in the journal, where the grant is for that and there is room, else in the store.
    pub(super) async fn publish_blob(&self, grant: &Grant, sums: &Sums, piece: &Payload) -> Result<BlobInfo> {
        match self.journal_blob(grant, &sums.digest, piece.body()).await {
            Some(acknowledged) => Ok(acknowledged),
            None => self.store_blob(grant, sums, piece).await,
        }
    }

    /// Makes verified bytes visible as a blob.
    pub(super) async fn store_blob(&self, grant: &Grant, sums: &Sums, piece: &Payload) -> Result<BlobInfo> {
        let (store, key, size) = (self.store(grant)?, layout::blob_key(grant.scope(), &sums.digest), piece.body().len());
        // The name is the content, so whoever comes second writes the same bytes.
        let etag = if size > SINGLE_PUT_BYTES && store.prefers_multipart() {
            self.0.transfers.begin(store, grant.scope().bucket().clone(), key).put(piece, Condition::None).await?
        } else {
            store.put(&key, piece.body().clone(), Condition::None).await?
        };
        Ok(self.blob_written(grant, sums, size, etag))
    }

    /// Takes note of a blob that was just stored: whatever was there before it is so no more.
    pub(super) fn blob_written(&self, grant: &Grant, sums: &Sums, size: u64, etag: ETag) -> BlobInfo {
        let Sums { digest, crc } = sums;
        grant.usage().blob_written(size);
        let meta = store::Meta { size, etag, modified: OffsetDateTime::now_utc() };
        self.0.known.record_written(grant.scope(), digest, meta.clone(), *crc);
        BlobInfo::new(*digest, meta)
    }

    /// Makes a blob young again for lifecycle rules.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Denied`], or the store's.
    pub async fn touch_blob(&self, grant: &Grant, digest: &Digest) -> Result<BlobInfo> {
        grant.check_blob(Right::Write, digest)?;
        let (store, scope) = (self.store(grant)?, grant.scope());
        let touched = match self.touch_stored(scope, store.as_ref(), digest).await? {
            Some(touched) => Ok(touched),
            None => store.head(&layout::blob_key(scope, digest)).await,
        };
        Ok(BlobInfo::new(*digest, self.noted(scope, digest, touched)?))
    }

    /// Deletes a blob and its labels.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Denied`], or the store's.
    pub async fn delete_blob(&self, grant: &Grant, digest: &Digest) -> Result<()> {
        grant.check_blob(Right::Delete, digest)?;
        let (store, key) = (self.store(grant)?, layout::blob_key(grant.scope(), digest));
        // Also one in quarantine.
        store.head(&key).await?;
        store.delete(&key).await?;
        self.0.known.record_absent(grant.scope(), digest);
        if let Some(disk) = &self.0.disk {
            disk.forget(digest);
        }
        Ok(store.delete(&layout::labels_key(grant.scope(), digest)).await?)
    }

    /// Blobs behind `after`, in the order of their digests, at most `limit` (1 to 1,000); and whether
    /// there are more.
    ///
    /// # Errors
    /// [`Error::Denied`], or the store's.
    pub async fn list_blobs(&self, grant: &Grant, after: Option<&Digest>, limit: usize) -> Result<(Vec<BlobInfo>, bool)> {
        grant.check(Right::Read)?;
        let prefix = layout::blobs_prefix(grant.scope());
        let (store, mut after) = (self.store(grant)?, after.map(|digest| format!("{prefix}{digest}")));
        let info = |(key, meta): (String, store::Meta)| {
            let digest = key.strip_prefix(&prefix)?.parse().ok()?;
            self.0.known.record_present(grant.scope(), &digest, meta.clone()).then(|| BlobInfo::new(digest, meta))
        };
        loop {
            let page = store.list(&prefix, after.as_deref(), limit).await?;
            after = page.entries.last().map(|(key, _)| key.clone());
            let blobs: Vec<_> = page.entries.into_iter().filter_map(info).collect();
            // A page of foreign objects gives the caller no digest to go on from.
            if !blobs.is_empty() || !page.more {
                return Ok((blobs, page.more));
            }
        }
    }
}

/// A document of the session that the grant was made for.
fn document(grant: &Grant, digest: &Digest) -> Option<Bytes> {
    grant.documents()?.get(digest)
}

fn quarantined(digest: &Digest) -> String {
    format!("blob {digest}: what is stored is corrupt")
}

fn read_document(digest: Digest, document: &Bytes, range: Option<ByteRange>) -> Result<BlobRead> {
    let size = document.len() as u64;
    let range = match range {
        Some(range) if range.start() >= size => {
            return Err(Error::OutOfRange(format!("{digest} has {size} bytes: none from {} on", range.start())));
        }
        Some(range) => ByteRange::new(range.start(), range.end().min(size)),
        None => ByteRange::new(0, size),
    };
    let index = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
    let part = range.map_or_else(Bytes::new, |range| document.slice(index(range.start())..index(range.end())));
    let body = futures_util::stream::once(async { Ok(part) });
    Ok(BlobRead { info: BlobInfo::of_document(digest, document), range, body: Box::pin(body) })
}
