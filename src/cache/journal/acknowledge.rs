//! What becomes of a build's writes under `durability = "local"`, and of its questions: they are answered from
//! here while the store does not answer.

use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;

use super::{Entry, Journal, needs};
use crate::cache::layout::Item;
use crate::cache::{BlobInfo, Cache, CacheConfig, Error, Result};
use crate::store::Body;
use crate::types::{Digest, Durability, ETag, Grant, ManifestName};

/// How long a manifest waits for room, which is there as soon as a blob is finished. Its own blobs may be among
/// those, so it cannot go to the store before them.
const PATIENCE: Duration = Duration::from_secs(60);

impl Cache {
    /// The journal, where what is written under this grant goes there.
    pub(in crate::cache) fn journal(&self, grant: &Grant) -> Option<&Journal> {
        self.0.journal.as_ref().filter(|_| grant.durability() == Durability::Local)
    }

    /// Acknowledges a verified blob; `None`: it must go to the store.
    pub(in crate::cache) async fn journal_blob(&self, grant: &Grant, digest: &Digest, body: &Body) -> Option<BlobInfo> {
        let (journal, size) = (self.journal(grant)?, body.len());
        let entry = Entry::new(grant.scope().clone(), Item::Blob(*digest), *digest, size, OffsetDateTime::now_utc());
        if let Err(error) = journal.take(entry, Vec::new(), body.clone(), Duration::ZERO).await {
            tracing::info!(blob.digest = %digest, %error, "an export waits for the store, and not for this disk alone: {error}");
            return None;
        }
        grant.usage().blob_written(size);
        Some(BlobInfo::unstored(*digest, size))
    }

    /// Acknowledges a manifest; `None`: it must go to the store.
    pub(in crate::cache) async fn journal_manifest(
        &self,
        grant: &Grant,
        name: &ManifestName,
        document: &Bytes,
        config: &CacheConfig,
    ) -> Result<Option<ETag>> {
        let Some(journal) = self.journal(grant) else { return Ok(None) };
        let (digest, size) = (Digest::of(document), document.len() as u64);
        let entry = Entry::new(grant.scope().clone(), Item::Manifest(name.clone()), digest, size, OffsetDateTime::now_utc());
        journal.take(entry, needs(config), Body::Bytes(document.clone()), PATIENCE).await?;
        Ok(Some(ETag::new(&digest.to_string())))
    }

    /// A blob that need not be sent to the journal, as it is there.
    pub(in crate::cache) fn find_in_journal(&self, grant: &Grant, digest: &Digest) -> Option<BlobInfo> {
        let size = self.journal(grant)?.size_of(grant.scope(), digest)?;
        Some(BlobInfo::unstored(*digest, size))
    }

    /// What is made of the store's answer to an export's question. Without an answer a blob is where it was seen
    /// last; one that never was is sent, since there is a place for it. What is not true of that is left out when
    /// the manifest is published.
    pub(in crate::cache) fn or_guessed(&self, grant: &Grant, digest: &Digest, found: Result<BlobInfo>) -> Result<BlobInfo> {
        match found {
            Err(error) if error.is_outage() && self.journal(grant).is_some() => match self.0.known.last(grant.scope(), digest) {
                Some(seen) => Ok(BlobInfo::new(*digest, seen)),
                None => Err(Error::NotFound(format!("blob {digest}"))),
            },
            found => found,
        }
    }
}
