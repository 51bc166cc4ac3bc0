//! Manifests as they are stored.

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use time::OffsetDateTime;

use crate::cache::{CacheConfig, Error, Result, layout};
use crate::store::Store;
use crate::types::{ETag, ManifestName, Scope};

/// A manifest that was read.
#[derive(Debug, Clone)]
pub struct Manifest {
    /// The document, byte for byte as it is stored unless results were left out.
    pub bytes: Bytes,
    /// The document, parsed.
    pub config: CacheConfig,
    /// Its version.
    pub etag: ETag,
    /// When it was last published or touched.
    pub modified: OffsetDateTime,
}

/// Reads manifests up to a size.
#[derive(Debug, Clone, Copy)]
pub(in crate::cache) struct ManifestReader {
    max_bytes: u64,
}

impl ManifestReader {
    pub(in crate::cache) fn new(max_bytes: u64) -> Self {
        Self { max_bytes }
    }

    /// Bytes of the largest manifest that is read or stored.
    pub(in crate::cache) fn max_bytes(self) -> u64 {
        self.max_bytes
    }

    /// Whether a manifest of `size` bytes may be stored.
    ///
    /// # Errors
    /// [`Error::Exhausted`] above the bound.
    pub(in crate::cache) fn check_size(self, size: u64) -> Result<()> {
        if size > self.max_bytes {
            Err(Error::Exhausted(format!("a manifest of {size} bytes; limits.max_manifest_bytes allows {}", self.max_bytes)))
        } else {
            Ok(())
        }
    }

    /// Reads a manifest and parses it.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Corrupt`] for a document that is no cache config, [`Error::Exhausted`] for one above
    /// the bound, or the store's.
    pub(in crate::cache) async fn read(self, store: &dyn Store, scope: &Scope, name: &ManifestName) -> Result<Manifest> {
        let mut object = store.get(&layout::manifest_key(scope, name), None, None).await?;
        self.check_size(object.meta.size)?;
        let mut document = Vec::with_capacity(usize::try_from(object.meta.size).unwrap_or_default());
        while let Some(chunk) = object.body.try_next().await? {
            document.extend_from_slice(&chunk);
        }
        let config = CacheConfig::parse(&document).map_err(|malformed| Error::Corrupt(format!("manifest {name}: {malformed}")))?;
        Ok(Manifest { bytes: document.into(), config, etag: object.meta.etag, modified: object.meta.modified })
    }
}
