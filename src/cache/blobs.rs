//! Blobs: looked up, read, stored whole, touched, listed, deleted.

use std::future::{Future, pending};

use time::OffsetDateTime;

use super::write::receive::check_digest;
use super::{BlobInfo, BlobRead, Cache, Incoming, Result, layout};
use crate::store::{self, Condition};
use crate::transfer::{Payload, SINGLE_PUT_BYTES};
use crate::types::{ByteRange, Digest, ETag, Grant, Hasher, Right, Sums};

impl Cache {
    /// Looks a blob up. A build's grant is answered from memory where the blob was seen lately: what the
    /// build makes of the answer is checked again when it publishes.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Denied`], or the store's.
    pub async fn stat_blob(&self, grant: &Grant, digest: &Digest) -> Result<BlobInfo> {
        self.0.reads.lookups().stat(grant, digest).await
    }

    /// The size in bytes of a blob that was seen lately. Asks no store: what has a digest keeps its size.
    ///
    /// # Errors
    /// [`Error::Denied`].
    pub fn remembered_size(&self, grant: &Grant, digest: &Digest) -> Result<Option<u64>> {
        self.0.reads.remembered_size(grant, digest)
    }

    /// Reads a blob, or a part of it. A range that ends behind the blob is cut to it. All of a blob's bytes
    /// are checked: the last of them come when they are right. They come from the disk cache where
    /// that has them.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::OutOfRange`] for a range that begins behind the blob,
    /// [`Error::Denied`], or the store's. In the body also [`Error::Corrupt`] where they are not.
    pub async fn read_blob(&self, grant: &Grant, digest: &Digest, range: Option<ByteRange>) -> Result<BlobRead> {
        self.0.reads.read(grant, digest, range).await
    }

    /// As [`Cache::read_blob`]; a build's import waits for its store to be back: up to a minute, or for 7 s
    /// where the build passes without.
    ///
    /// # Errors
    /// Those of [`Cache::read_blob`].
    pub async fn read_promised_blob(&self, grant: &Grant, digest: &Digest, range: Option<ByteRange>) -> Result<BlobRead> {
        self.0.reads.read_promised(grant, digest, range).await
    }

    /// Makes a lookup of a blob that a served manifest names; a build's import waits as
    /// [`Cache::read_promised_blob`] does.
    ///
    /// # Errors
    /// Those of `look`.
    pub async fn promised<T, F>(&self, grant: &Grant, digest: &Digest, look: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        self.0.reads.promised(grant, digest, look).await
    }

    /// Reads a blob as it is stored: nothing is verified, and one in quarantine is read too. For a look at it.
    ///
    /// # Errors
    /// As [`Cache::read_blob`].
    pub async fn read_stored_blob(&self, grant: &Grant, digest: &Digest) -> Result<BlobRead> {
        self.0.reads.read_stored(grant, digest).await
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
        Ok(BlobInfo::new(*digest, self.0.reads.lookups().record(scope, digest, touched)?))
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
