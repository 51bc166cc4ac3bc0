//! What the content endpoint knows of a blob beyond its bytes: labels, and times finer than S3's.
//!
//! BuildKit's layout has no place for them, so they are objects of our own beside the blobs. They are written only for blobs
//! that come through the content endpoint.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::read::Lookups;
use super::{BlobInfo, Error, Result, layout};
use crate::store::{self, Body, Condition, Stores};
use crate::types::{Digest, ETag, Grant, Right};

/// containerd's bound for a label's key and value together.
const MAX_LABEL_BYTES: usize = 4096;
/// Labels of one blob: enough for any use known. This bounds the object.
const MAX_LABELS: usize = 1024;
/// Tries to change labels while others change them, too.
const CHANGE_ATTEMPTS: usize = 16;
/// Label documents that a listing reads at once.
const READS_AT_ONCE: usize = 16;

/// A blob with its labels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Labelled {
    /// The blob.
    pub digest: Digest,
    /// Bytes.
    pub size: u64,
    /// When it was stored.
    pub created: OffsetDateTime,
    /// When its labels last changed.
    pub updated: OffsetDateTime,
    /// The labels.
    pub labels: BTreeMap<String, String>,
}

impl Labelled {
    fn new(info: &BlobInfo, document: Option<Document>) -> Self {
        let unlabelled = || Document { created: info.modified, updated: info.modified, labels: BTreeMap::new() };
        let Document { created, updated, labels } = document.unwrap_or_else(unlabelled);
        Self { digest: info.digest, size: info.size, created, updated, labels }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Document {
    #[serde(with = "time::serde::rfc3339")]
    created: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated: OffsetDateTime,
    labels: BTreeMap<String, String>,
}

/// The labels of a cache's blobs.
#[derive(Debug)]
pub struct Labels {
    stores: Arc<Stores>,
    lookups: Arc<Lookups>,
}

impl Labels {
    pub(super) fn new(stores: Arc<Stores>, lookups: Arc<Lookups>) -> Self {
        Self { stores, lookups }
    }

    /// A blob with its labels.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Denied`], or the store's.
    pub async fn of(&self, grant: &Grant, digest: &Digest) -> Result<Labelled> {
        if grant.is_session() {
            // A session asks for size and digest alone, and for each layer once.
            return Ok(Labelled::new(&self.lookups.stat(grant, digest).await?, None));
        }
        let (info, document) = futures_util::future::try_join(self.lookups.stat(grant, digest), self.read(grant, digest)).await?;
        Ok(Labelled::new(&info, document.map(|(document, _)| document)))
    }

    /// Blobs with their labels, listed as [`Blobs::list`](super::Blobs::list) does.
    ///
    /// # Errors
    /// [`Error::Denied`], or the store's.
    pub async fn list(&self, grant: &Grant, after: Option<&Digest>, limit: usize) -> Result<(Vec<Labelled>, bool)> {
        let (blobs, more) = self.lookups.list(grant, after, limit).await?;
        // Collected first: a lazy iterator of borrowing futures is not `Send`.
        let reads: Vec<_> =
            blobs
                .into_iter()
                .map(|info| async move {
                    Ok::<_, Error>(Labelled::new(&info, self.read(grant, &info.digest).await?.map(|(document, _)| document)))
                })
                .collect();
        Ok((stream::iter(reads).buffered(READS_AT_ONCE).try_collect().await?, more))
    }

    /// Changes a blob's labels. `change` gets those that it has; an empty value removes a label. This is safe against
    /// concurrent changes.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Invalid`] for labels above containerd's bounds, [`Error::Locked`] while others change
    /// them all the time, [`Error::Denied`], or the store's.
    pub async fn update(
        &self,
        grant: &Grant,
        digest: &Digest,
        change: impl Fn(&mut BTreeMap<String, String>) + Send + Sync,
    ) -> Result<Labelled> {
        grant.check_blob(Right::Write, digest)?;
        let info = self.lookups.stat(grant, digest).await?;
        let store = self.stores.store(grant.scope())?;
        let key = layout::labels_key(grant.scope(), digest);
        for _ in 0..CHANGE_ATTEMPTS {
            let (mut document, condition) = match self.read(grant, digest).await? {
                Some((document, etag)) => (document, Condition::Matches(etag)),
                None => (Document { created: info.modified, updated: info.modified, labels: BTreeMap::new() }, Condition::Absent),
            };
            change(&mut document.labels);
            document.labels.retain(|_, value| !value.is_empty());
            check_labels(&document.labels)?;
            document.updated = OffsetDateTime::now_utc();
            match store.put(&key, encode(&document)?, condition).await {
                // Somebody else was faster: their change comes first, and this one on top of it.
                Err(store::Error::Precondition(_)) => {}
                Err(error) => return Err(error.into()),
                Ok(_) => return Ok(Labelled::new(&info, Some(document))),
            }
        }
        Err(Error::Locked(format!("labels of {digest}: others change them too often")))
    }

    /// Records the labels and the exact time of a new blob.
    pub(super) async fn write(&self, grant: &Grant, digest: &Digest, mut labels: BTreeMap<String, String>) -> Result<()> {
        labels.retain(|_, value| !value.is_empty());
        let now = OffsetDateTime::now_utc();
        let document = encode(&Document { created: now, updated: now, labels })?;
        self.stores.store(grant.scope())?.put(&layout::labels_key(grant.scope(), digest), document, Condition::None).await?;
        Ok(())
    }

    async fn read(&self, grant: &Grant, digest: &Digest) -> Result<Option<(Document, ETag)>> {
        let object = match self.stores.store(grant.scope())?.get(&layout::labels_key(grant.scope(), digest), None, None).await {
            Ok(object) => object,
            Err(store::Error::NotFound(_)) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if object.meta.size > (MAX_LABELS * MAX_LABEL_BYTES * 2) as u64 {
            return Err(Error::Corrupt(format!("labels of {digest}: {} bytes", object.meta.size)));
        }
        let chunks: Vec<Bytes> = object.body.try_collect().await?;
        let document = serde_json::from_slice(&chunks.concat()).map_err(|error| Error::Corrupt(format!("labels of {digest}: {error}")))?;
        Ok(Some((document, object.meta.etag)))
    }
}

/// containerd's rule, so that a label that it would refuse is refused here too.
pub(super) fn check_labels(labels: &BTreeMap<String, String>) -> Result<()> {
    if labels.len() > MAX_LABELS {
        return Err(Error::Invalid(format!("{} labels; at most {MAX_LABELS} are allowed", labels.len())));
    }
    match labels.iter().find(|(key, value)| key.len() + value.len() > MAX_LABEL_BYTES) {
        Some((key, _)) => {
            let shown: String = key.chars().take(32).collect();
            Err(Error::Invalid(format!("label {shown:?}: key and value have more than {MAX_LABEL_BYTES} bytes")))
        }
        None => Ok(()),
    }
}

fn encode(document: &Document) -> Result<Body> {
    serde_json::to_vec(document).map(|json| Body::Bytes(json.into())).map_err(|error| Error::Internal(error.to_string()))
}
