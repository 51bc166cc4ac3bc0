//! Named manifests: read, published when every blob is there, listed, deleted.

use bytes::Bytes;
use futures_util::TryStreamExt;
use time::OffsetDateTime;

use super::lookup::Absent;
use super::{Cache, CacheConfig, Condition, Error, Result, layout};
use crate::store::{self, Body};
use crate::types::{ETag, Grant, ManifestName, Right};

/// Missing blobs that an error names.
const MISSING_SHOWN: usize = 3;

/// A manifest that was read.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The document, byte for byte as it is stored.
    pub bytes: Bytes,
    /// The same, parsed.
    pub config: CacheConfig,
    /// Its version.
    pub etag: ETag,
    /// When it was last published or touched.
    pub modified: OffsetDateTime,
}

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

    /// Reads a manifest. The blobs that it names may be read under this grant from now on.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Corrupt`] for a document that is no cache config,
    /// [`Error::Exhausted`] for one above the bound, [`Error::Denied`], or the store's.
    pub async fn get_manifest(&self, grant: &Grant, name: &ManifestName) -> Result<Manifest> {
        grant.check_manifest(Right::Read, name)?;
        let mut object = self.store(grant)?.get(&layout::manifest_key(grant.scope(), name), None, None).await?;
        self.check_manifest_size(object.meta.size)?;
        let mut document = Vec::with_capacity(usize::try_from(object.meta.size).unwrap_or_default());
        while let Some(piece) = object.body.try_next().await? {
            document.extend_from_slice(&piece);
        }
        let config = CacheConfig::parse(&document).map_err(|malformed| Error::Corrupt(format!("manifest {name}: {malformed}")))?;
        grant.disclose(config.blobs().into_keys());
        grant.usage().manifest_read(config.layers().len() as u64);
        Ok(Manifest { bytes: document.into(), config, etag: object.meta.etag, modified: object.meta.modified })
    }

    /// Publishes a manifest, byte for byte as given, when every blob that it names is stored.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a document that is no cache config, [`Error::Precondition`] where a blob is
    /// missing, [`Error::Conflict`] where `condition` does not hold, [`Error::Exhausted`] above the bound,
    /// [`Error::Denied`], or the store's. In each case what was published before is still there.
    pub async fn put_manifest(&self, grant: &Grant, name: &ManifestName, document: Bytes, condition: Condition) -> Result<ETag> {
        grant.check_manifest(Right::Write, name)?;
        self.check_manifest_size(document.len() as u64)?;
        let config = CacheConfig::parse(&document).map_err(|malformed| Error::Invalid(format!("manifest {name}: {malformed}")))?;
        let store = self.store(grant)?;
        let wanted = config.blobs().into_keys().map(|digest| (digest, 0)).collect();
        let Absent { missing, unknown } = self.absent(grant.scope(), store.as_ref(), &wanted).await;
        if let Some((_, fault)) = unknown {
            return Err(fault.into());
        }
        if !missing.is_empty() {
            let shown: Vec<String> = missing.iter().take(MISSING_SHOWN).map(ToString::to_string).collect();
            return Err(Error::Precondition(format!(
                "manifest {name} names {} blobs that are not stored, {} among them",
                missing.len(),
                shown.join(", ")
            )));
        }
        let key = layout::manifest_key(grant.scope(), name);
        let etag = store.put(&key, Body::Bytes(document), condition).await?;
        grant.usage().manifest_written();
        Ok(etag)
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
        let max = self.0.settings.max_manifest_bytes;
        if size > max {
            Err(Error::Exhausted(format!("a manifest of {size} bytes; limits.max_manifest_bytes allows {max}")))
        } else {
            Ok(())
        }
    }
}
