//! Blobs and manifests by their whole keys: for callers that know S3's view of a cache.

use time::OffsetDateTime;

use super::layout::{self, Item};
use super::{Cache, Error, Result};
use crate::types::{ETag, Grant, Right};

/// A blob or manifest as a listing by key shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectInfo {
    /// The whole key.
    pub key: String,
    /// Bytes.
    pub size: u64,
    /// Its version.
    pub etag: ETag,
    /// When it was last stored or touched.
    pub modified: OffsetDateTime,
}

/// Some of the objects below a prefix.
#[derive(Debug, Clone, Default)]
pub struct ObjectPage {
    /// In the order of their keys' bytes.
    pub objects: Vec<ObjectInfo>,
    /// Where the next page begins; `None` at the end. A page may be empty and not the last.
    pub next: Option<String>,
}

impl Cache {
    /// Blobs and manifests whose keys begin with `prefix` and come after `after`, as far as the grant
    /// reaches. Looks at no more than `limit` (1 to 1,000) objects of the store.
    ///
    /// # Errors
    /// [`Error::Denied`], also for a prefix outside of the grant's scope, or the store's.
    pub async fn list_objects(&self, grant: &Grant, prefix: &str, after: Option<&str>, limit: usize) -> Result<ObjectPage> {
        grant.check(Right::Read)?;
        let own = grant.scope().prefix();
        let prefix = match (prefix.starts_with(own), own.starts_with(prefix)) {
            (true, _) => prefix,
            (_, true) => own,
            _ => return Err(Error::Denied(format!("access denied: this grant is for {} alone", grant.scope()))),
        };
        let page = self.0.stores.store(grant.scope())?.list(prefix, after, limit).await?;
        let next = page.entries.last().filter(|_| page.more).map(|(key, _)| key.clone());
        for (key, meta) in &page.entries {
            if let Some((below, Item::Blob(digest))) = layout::locate(grant.scope(), key)
                && below.is_empty()
            {
                self.0.known.record_present(grant.scope(), &digest, meta.clone());
            }
        }
        let shown = page.entries.into_iter().filter(|(key, _)| shows(grant, key));
        let objects = shown.map(|(key, meta)| ObjectInfo { key, size: meta.size, etag: meta.etag, modified: meta.modified });
        Ok(ObjectPage { objects: objects.collect(), next })
    }
}

/// Whether the grant reads what `key` names. Foreign objects and labels are not shown.
fn shows(grant: &Grant, key: &str) -> bool {
    let Some((below, item)) = layout::locate(grant.scope(), key) else { return false };
    grant.below(&below).is_ok_and(|grant| {
        match item {
            Item::Blob(digest) => grant.check_blob(Right::Read, &digest),
            Item::Manifest(name) => grant.check_manifest(Right::Read, &name),
        }
        .is_ok()
    })
}
