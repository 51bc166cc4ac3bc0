//! Manifests by name: published, served to builds, looked up, listed, deleted.
//!
//! In: a document, or a name. Out: a version, or a document. A manifest never promises what is not there: it is published
//! only when every blob that it names is stored (`publish`), and served to a build without what was lost since (`serve`).
//! It says which version of each blob was verified (`vouch`).

mod publish;
mod serve;
mod vouch;

use std::sync::Arc;

use bytes::Bytes;
use time::OffsetDateTime;

use self::publish::{Publication, Publisher};
use self::serve::Server;
use self::vouch::Vouching;
use super::known::{Hits, Known};
use super::read::{ManifestReader, Reads};
use super::write::Writes;
use super::{CacheConfig, Condition, Error, Manifest, Result, layout};
use crate::metrics::Metrics;
use crate::store::{Body, Meta, Stores};
use crate::types::{ETag, Grant, ManifestName, Right};

pub use self::publish::MergeRules;

/// A manifest as a listing shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestInfo {
    /// Its name.
    pub name: ManifestName,
    /// Bytes of the document.
    pub size: u64,
    /// Its version.
    pub etag: ETag,
    /// When it was last published or touched.
    pub modified: OffsetDateTime,
}

/// What the manifests' room is made from.
pub(super) struct Parts {
    pub(super) stores: Arc<Stores>,
    pub(super) known: Known,
    pub(super) hits: Hits,
    pub(super) reader: ManifestReader,
    pub(super) reads: Arc<Reads>,
    pub(super) writes: Arc<Writes>,
    /// How a manifest is merged with the stored one of its name; `None`: it replaces it.
    pub(super) merge: Option<MergeRules>,
    pub(super) metrics: Metrics,
}

/// The manifests of a cache.
#[derive(Debug)]
pub struct Manifests {
    stores: Arc<Stores>,
    known: Known,
    reader: ManifestReader,
    writes: Arc<Writes>,
    server: Server,
    publisher: Publisher,
}

impl Manifests {
    pub(super) fn new(parts: Parts) -> Self {
        let Parts { stores, known, hits, reader, reads, writes, merge, metrics } = parts;
        let vouching = Vouching::new(known.clone(), Arc::clone(&reads), Arc::clone(writes.touches()));
        let server = Server::new(known.clone(), reads, vouching.clone(), metrics.clone());
        let publisher = Publisher::new(known.clone(), hits, reader, vouching, merge, metrics);
        Self { stores, known, reader, writes, server, publisher }
    }

    /// What is known of a manifest without reading it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Denied`], or the store's.
    pub async fn stat(&self, grant: &Grant, name: &ManifestName) -> Result<ManifestInfo> {
        grant.check_manifest(Right::Exists, name)?;
        let meta = self.stores.store(grant.scope())?.head(&layout::manifest_key(grant.scope(), name)).await?;
        Ok(ManifestInfo { name: name.clone(), size: meta.size, etag: meta.etag, modified: meta.modified })
    }

    /// Reads a manifest as it is stored. The blobs that it names may be read under this grant from now on.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Corrupt`] for a document that is no cache config, [`Error::Exhausted`] for one above
    /// the bound, [`Error::Denied`], or the store's.
    pub async fn get(&self, grant: &Grant, name: &ManifestName) -> Result<Manifest> {
        grant.check_manifest(Right::Read, name)?;
        let manifest = self.reader.read(self.stores.store(grant.scope())?.as_ref(), grant.scope(), name).await?;
        Ok(serve::disclosed(grant, manifest))
    }

    /// Reads a manifest for a build: without the results that need a blob which is gone, corrupt or of another size, so that
    /// the build makes them again. A blob that has changed since it was verified is read before the answer, which takes a
    /// few seconds at most. BuildKit reads blobs when it has already decided to use them, and one that is missing then fails
    /// the build.
    ///
    /// # Errors
    /// Those of [`Manifests::get`].
    pub async fn import(&self, grant: &Grant, name: &ManifestName) -> Result<Manifest> {
        grant.check_manifest(Right::Read, name)?;
        let store = self.stores.store(grant.scope())?;
        let manifest = self.reader.read(store.as_ref(), grant.scope(), name).await?;
        self.server.serve(grant, name, store.as_ref(), manifest).await
    }

    /// Publishes a manifest when every blob that it names is stored.
    ///
    /// Under a grant for `durability = "local"` and [`Condition::None`] it is acknowledged when the journal has it, and
    /// published later. What is not stored by then is left out of it.
    ///
    /// With [`Condition::None`] it is merged with what is stored under that name, if [`Settings::merge`](super::Settings::merge)
    /// is set. Where nothing is stored, or nothing of it is worth keeping, the document is stored as given, but for the
    /// versions of verified blobs. A blob that was there when its writer asked and is gone now is no error then: the results
    /// that need it are left out.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a document that is no cache config, [`Error::Precondition`] where a blob is missing,
    /// [`Error::Conflict`] where `condition` does not hold, [`Error::Exhausted`] above the bound, [`Error::Unavailable`]
    /// where others kept publishing, [`Error::Denied`], or the store's. In each case what was published before is still there.
    pub async fn publish(&self, grant: &Grant, name: &ManifestName, document: Bytes, condition: Condition) -> Result<ETag> {
        grant.check_manifest(Right::Write, name)?;
        self.check_size(document.len() as u64)?;
        let config = parsed(name, &document)?;
        let etag = match (condition, self.writes.journal(grant)) {
            (Condition::None, Some(journal)) => journal.acknowledge_manifest(grant, name, &document, &config).await?,
            (Condition::None, None) => {
                let store = self.stores.store(grant.scope())?;
                let scope = grant.scope();
                let promised = config.blobs().into_keys().filter(|digest| self.known.recall(scope, digest).is_some()).collect();
                self.publisher.merge(store.as_ref(), Publication::new(grant, name, document, config, promised)).await?
            }
            (condition, _) => {
                let store = self.stores.store(grant.scope())?;
                if condition != Condition::Absent {
                    self.publisher.base(store.as_ref(), grant, name).await?;
                }
                let lost = self.publisher.lost(store.as_ref(), grant, &[&config]).await?;
                publish::refuse_missing(name, &config, &lost)?;
                store.put(&layout::manifest_key(grant.scope(), name), Body::Bytes(document), condition).await?
            }
        };
        grant.usage().manifest_written();
        Ok(etag)
    }

    /// Publishes a manifest that was acknowledged before, as [`Manifests::publish`] does. The results that need a blob which
    /// is not stored are left out, whichever blob it is.
    ///
    /// # Errors
    /// Those of [`Manifests::publish`], but none for a missing blob.
    pub(super) async fn publish_acknowledged(&self, grant: &Grant, name: &ManifestName, document: Bytes) -> Result<ETag> {
        let config = parsed(name, &document)?;
        let store = self.stores.store(grant.scope())?;
        let promised = config.blobs().into_keys().collect();
        self.publisher.merge(store.as_ref(), Publication::new(grant, name, document, config, promised)).await
    }

    /// Deletes a manifest; its blobs stay.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Denied`], or the store's.
    pub async fn delete(&self, grant: &Grant, name: &ManifestName) -> Result<()> {
        grant.check_manifest(Right::Delete, name)?;
        let store = self.stores.store(grant.scope())?;
        let key = layout::manifest_key(grant.scope(), name);
        store.head(&key).await?;
        Ok(store.delete(&key).await?)
    }

    /// Manifests whose names come after `after`, in the order of their names' bytes, at most `limit` (1 to 1,000); and
    /// whether there are more.
    ///
    /// # Errors
    /// [`Error::Denied`], or the store's.
    pub async fn list(&self, grant: &Grant, after: Option<&str>, limit: usize) -> Result<(Vec<ManifestInfo>, bool)> {
        grant.check(Right::Read)?;
        let prefix = layout::manifests_prefix(grant.scope());
        let store = self.stores.store(grant.scope())?;
        let mut after = after.map(|name| format!("{prefix}{name}"));
        // A foreign object below the prefix is not ours to show.
        let info = |(key, meta): (String, Meta)| {
            let name: ManifestName = key.strip_prefix(&prefix)?.parse().ok()?;
            grant.check_manifest(Right::Read, &name).ok()?;
            Some(ManifestInfo { name, size: meta.size, etag: meta.etag, modified: meta.modified })
        };
        loop {
            let page = store.list(&prefix, after.as_deref(), limit).await?;
            after = page.entries.last().map(|(key, _)| key.clone());
            let manifests: Vec<_> = page.entries.into_iter().filter_map(info).collect();
            // An empty page gives the caller no name to go on from.
            if !manifests.is_empty() || !page.more {
                return Ok((manifests, page.more));
            }
        }
    }

    /// Whether a manifest of `size` bytes may be stored.
    ///
    /// # Errors
    /// [`Error::Exhausted`] above the bound.
    pub fn check_size(&self, size: u64) -> Result<()> {
        self.reader.check_size(size)
    }
}

fn parsed(name: &ManifestName, document: &Bytes) -> Result<CacheConfig> {
    CacheConfig::parse(document).map_err(|malformed| Error::Invalid(format!("manifest {name}: {malformed}")))
}
