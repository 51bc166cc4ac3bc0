//! From the documents of an export to a cache config.

use std::collections::HashMap;

use bytes::Bytes;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use super::model::{CONFIG_TYPE, Descriptor, EXTRA, MalformedOci, OciManifest, ZERO_TIME};
use crate::cache::{CacheConfig, LayerAnnotations};
use crate::types::Digest;

/// The OCI form of a cache: two documents, named by their digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OciForm {
    /// The image manifest.
    pub(crate) manifest: Bytes,
    /// The cache config that it names.
    pub(crate) config: Bytes,
}

impl OciForm {
    /// The digest of the cache config that an OCI manifest names.
    pub(crate) fn config_digest(manifest: &[u8]) -> Result<Digest, MalformedOci> {
        let manifest = OciManifest::parse(manifest)?;
        let descriptor = manifest.config.iter().chain(&manifest.manifests).find(|descriptor| descriptor.media_type == CONFIG_TYPE);
        let descriptor = descriptor.ok_or_else(|| MalformedOci::new(&format!("it names no {CONFIG_TYPE}")))?;
        descriptor.digest.parse().map_err(|invalid| MalformedOci::new(&format!("config: {invalid}")))
    }

    /// The S3 form: the cache config with each layer's descriptor as annotations, as BuildKit's own
    /// client would have written it.
    pub(crate) fn into_config(self) -> Result<CacheConfig, MalformedOci> {
        let manifest = OciManifest::parse(&self.manifest)?;
        let descriptors: HashMap<&str, &Descriptor> =
            manifest.layers.iter().chain(&manifest.manifests).map(|descriptor| (descriptor.digest.as_str(), descriptor)).collect();
        let mut config: CacheConfig =
            serde_json::from_slice(&self.config).map_err(|error| MalformedOci::new(&format!("config: {error}")))?;
        for layer in config.layers.iter_mut().flatten() {
            let descriptor = descriptors
                .get(layer.blob.as_str())
                .ok_or_else(|| MalformedOci::new(&format!("it does not describe layer {}", layer.blob)))?;
            let extra = descriptor.annotations.others.get(EXTRA).map(|extra| serde_json::from_str(extra));
            layer.annotations = Some(LayerAnnotations {
                media_type: descriptor.media_type.clone(),
                diff_id: descriptor.annotations.uncompressed.clone(),
                size: descriptor.size,
                created_at: Some(utc(descriptor.annotations.created_at.as_deref())?),
                extra: extra.transpose().map_err(|error| MalformedOci::new(&format!("{EXTRA}: {error}")))?.unwrap_or_default(),
            });
        }
        config.validate().map_err(|malformed| MalformedOci::new(&malformed))?;
        Ok(config)
    }
}

/// A time as BuildKit's S3 client writes it: in UTC, whatever the descriptor's zone.
fn utc(time: Option<&str>) -> Result<String, MalformedOci> {
    let Some(text) = time else { return Ok(ZERO_TIME.to_owned()) };
    OffsetDateTime::parse(text, &Rfc3339)
        .map(|time| time.to_offset(UtcOffset::UTC).format(&Rfc3339))
        .map_err(|error| MalformedOci::new(&format!("buildkit/createdat {text:?}: {error}")))?
        .map_err(|error| MalformedOci::new(&format!("buildkit/createdat {text:?}: {error}")))
}
