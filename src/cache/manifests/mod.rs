//! Named manifests: looked up, read, listed, deleted. `publish` puts them.

pub(in crate::cache) mod publish;
mod vouch;

pub use publish::MergeRules;

use std::collections::BTreeSet;

use time::OffsetDateTime;

use crate::cache::known::Absent;
use crate::cache::{Cache, Manifest, Result, layout};
use crate::store;
use crate::types::{Digest, ETag, Grant, ManifestName, Right};

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

impl Cache {
    /// What is known of a manifest without reading it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Denied`], or the store's.
    pub async fn stat_manifest(&self, grant: &Grant, name: &ManifestName) -> Result<ManifestInfo> {
        grant.check_manifest(Right::Exists, name)?;
        let meta = self.store(grant)?.head(&layout::manifest_key(grant.scope(), name)).await?;
        Ok(ManifestInfo { name: name.clone(), size: meta.size, etag: meta.etag, modified: meta.modified })
    }

    /// Reads a manifest as it is stored. The blobs that it names may be read under this grant from now on.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Corrupt`] for a document that is no cache config,
    /// [`Error::Exhausted`] for one above the bound, [`Error::Denied`], or the store's.
    pub async fn get_manifest(&self, grant: &Grant, name: &ManifestName) -> Result<Manifest> {
        grant.check_manifest(Right::Read, name)?;
        let manifest = self.0.manifest_reader.read(self.store(grant)?.as_ref(), grant.scope(), name).await?;
        Ok(Self::shown(grant, manifest))
    }

    /// Reads a manifest for a build: without the results that need a blob which is gone, corrupt or of
    /// another size, so that the build makes them again. A blob that has changed since it was verified is
    /// read before the answer, which takes a few seconds at most. BuildKit reads blobs when it has already decided to use
    /// them, and one that is missing then fails the build.
    ///
    /// # Errors
    /// As [`Cache::get_manifest`].
    pub async fn import_manifest(&self, grant: &Grant, name: &ManifestName) -> Result<Manifest> {
        grant.check_manifest(Right::Read, name)?;
        let store = self.store(grant)?;
        let mut manifest = self.0.manifest_reader.read(store.as_ref(), grant.scope(), name).await?;
        // All of its blobs are looked up here: the export that follows need not.
        self.0.known.begin_bulk_lookup(grant.scope(), name);
        let absent = self.0.known.bulk_lookup(grant.scope(), store.as_ref(), &manifest.config.blobs()).await;
        let mut unusable = unusable(name, absent);
        unusable.extend(self.changed(grant, name, &manifest.config).await?);
        if let Some(pruned) = manifest.config.without(&unusable) {
            tracing::warn!(
                manifest.name = %name,
                "manifest {name}: {} of {} layers, {} of {} records are left out, as blobs are gone from the store or corrupt",
                pruned.layers,
                manifest.config.layers().len(),
                pruned.records,
                manifest.config.records().len()
            );
            self.0.metrics.manifests().pruned(pruned.layers, pruned.records);
            grant.usage().layers_pruned(pruned.layers as u64);
            manifest.bytes = pruned.config.to_json().into();
            manifest.config = pruned.config;
        }
        self.0.reads.expect(grant, name, &manifest.config);
        Ok(Self::shown(grant, manifest))
    }

    /// Notes that a caller gets to see a manifest.
    fn shown(grant: &Grant, manifest: Manifest) -> Manifest {
        grant.disclose(manifest.config.blobs().into_keys());
        grant.usage().manifest_read(manifest.config.layers().len() as u64);
        manifest
    }

    /// Deletes a manifest; its blobs stay.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Denied`], or the store's.
    pub async fn delete_manifest(&self, grant: &Grant, name: &ManifestName) -> Result<()> {
        grant.check_manifest(Right::Delete, name)?;
        let (store, key) = (self.store(grant)?, layout::manifest_key(grant.scope(), name));
        store.head(&key).await?;
        Ok(store.delete(&key).await?)
    }

    /// Manifests whose names come after `after`, in the order of their names' bytes, at most `limit`
    /// (1 to 1,000); and whether there are more.
    ///
    /// # Errors
    /// [`Error::Denied`], or the store's.
    pub async fn list_manifests(&self, grant: &Grant, after: Option<&str>, limit: usize) -> Result<(Vec<ManifestInfo>, bool)> {
        grant.check(Right::Read)?;
        let prefix = layout::manifests_prefix(grant.scope());
        let (store, mut after) = (self.store(grant)?, after.map(|name| format!("{prefix}{name}")));
        // A foreign object below the prefix is not ours to show.
        let info = |(key, meta): (String, store::Meta)| {
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
    pub fn check_manifest_size(&self, size: u64) -> Result<()> {
        self.0.manifest_reader.check_size(size)
    }
}

/// The blobs that a build must not count on. What the store does not tell of is among them: a step built
/// again beats a build that fails.
fn unusable(name: &ManifestName, absent: Absent) -> BTreeSet<Digest> {
    let mut unusable = absent.missing;
    if let Some((unknown, fault)) = absent.unknown {
        tracing::warn!(manifest.name = %name, %fault, "manifest {name}: cannot tell of {} blobs whether they are stored: {fault}", unknown.len());
        unusable.extend(unknown);
    }
    unusable
}
