//! What builds write under `durability = "local"` is acknowledged when the journal has it.

use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;

use super::{Journal, JournalEntry, needs};
use crate::cache::layout::Item;
use crate::cache::{BlobInfo, CacheConfig, Result};
use crate::store::Body;
use crate::types::{Digest, ETag, Grant, ManifestName};

/// How long a manifest waits for room, which is there as soon as a blob is finished. Its own blobs may be among
/// those, so it cannot go to the store before them.
const PATIENCE: Duration = Duration::from_secs(60);

impl Journal {
    /// Acknowledges a verified blob. `None`: it must go to the store.
    pub(in crate::cache) async fn acknowledge_blob(&self, grant: &Grant, digest: &Digest, body: &Body) -> Option<BlobInfo> {
        let size = body.len();
        let entry = JournalEntry::new(grant.scope().clone(), Item::Blob(*digest), *digest, size, OffsetDateTime::now_utc());
        if let Err(error) = self.take(entry, Vec::new(), body.clone(), Duration::ZERO).await {
            tracing::info!(blob.digest = %digest, %error, "an export waits for the store, and not for this disk alone: {error}");
            return None;
        }
        grant.usage().blob_written(size);
        Some(BlobInfo::unstored(*digest, size))
    }

    /// Acknowledges a manifest.
    ///
    /// # Errors
    /// Those of the disk, or [`Error::Exhausted`](crate::cache::Error::Exhausted) where there is no room in time.
    pub(in crate::cache) async fn acknowledge_manifest(
        &self,
        grant: &Grant,
        name: &ManifestName,
        document: &Bytes,
        config: &CacheConfig,
    ) -> Result<ETag> {
        let digest = Digest::of(document);
        let size = document.len() as u64;
        let entry = JournalEntry::new(grant.scope().clone(), Item::Manifest(name.clone()), digest, size, OffsetDateTime::now_utc());
        self.take(entry, needs(config), Body::Bytes(document.clone()), PATIENCE).await?;
        Ok(ETag::new(&digest.to_string()))
    }

    /// A blob that need not be sent, as the journal has it.
    pub(in crate::cache) fn find(&self, grant: &Grant, digest: &Digest) -> Option<BlobInfo> {
        let size = self.size_of(grant.scope(), digest)?;
        Some(BlobInfo::unstored(*digest, size))
    }
}
