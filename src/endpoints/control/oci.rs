//! The two forms of a cache manifest, and the way between them.
//!
//! In S3 a manifest is one cache config whose layers carry annotations. Through a session BuildKit reads
//! and writes the OCI form: an image manifest (or an index) that describes the layers, and a cache config
//! without annotations beside it (`cache/remotecache/{export,import}.go`, v0.33). Nothing is stored in
//! the OCI form.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use crate::cache::{CacheConfig, LayerAnnotations};
use crate::types::Digest;

const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";
/// What Go prints for a time that was never set.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// The OCI form: two documents, named by their digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct OciForm {
    /// The image manifest.
    pub(super) manifest: Bytes,
    /// The cache config that it names.
    pub(super) config: Bytes,
}

/// Why a pair of documents is not a cache manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed OCI cache manifest: {0}")]
pub(super) struct MalformedOci(String);

/// An image manifest has `config` and `layers`, an index has `manifests` with the config among them.
#[derive(Debug, Serialize, Deserialize)]
struct OciManifest {
    #[serde(rename = "schemaVersion")]
    schema_version: u32,
    #[serde(rename = "mediaType", default)]
    media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    config: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    manifests: Vec<Descriptor>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
struct Descriptor {
    #[serde(rename = "mediaType", default)]
    media_type: String,
    digest: String,
    size: i64,
    #[serde(default, skip_serializing_if = "Annotations::is_empty")]
    annotations: Annotations,
}

/// What a layer's descriptor says beyond type, digest and size.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Annotations {
    #[serde(rename = "containerd.io/uncompressed", default, skip_serializing_if = "String::is_empty")]
    uncompressed: String,
    #[serde(rename = "buildkit/createdat", default, skip_serializing_if = "Option::is_none")]
    created_at: Option<String>,
    #[serde(flatten)]
    others: BTreeMap<String, String>,
}

impl Annotations {
    fn is_empty(&self) -> bool {
        self.uncompressed.is_empty() && self.created_at.is_none() && self.others.is_empty()
    }
}

impl OciForm {
    /// The OCI form of a cache config. BuildKit takes no config whose descriptor says more than
    /// `max_config_size` bytes, but reads as many as there are, so the descriptor says no more than that.
    pub(super) fn of(config: &CacheConfig, max_config_size: usize) -> Result<Self, MalformedOci> {
        let mut bare = config.clone();
        let mut layers = Vec::with_capacity(config.layers().len());
        for layer in bare.layers.iter_mut().flatten() {
            let annotations = layer.annotations.take().ok_or_else(|| MalformedOci(format!("layer {} has no annotations", layer.blob)))?;
            layers.push(Descriptor {
                media_type: annotations.media_type,
                digest: layer.blob.clone(),
                size: annotations.size,
                annotations: Annotations {
                    uncompressed: annotations.diff_id,
                    created_at: annotations.created_at.filter(|time| time != ZERO_TIME),
                    others: BTreeMap::new(),
                },
            });
        }
        let document: Bytes = bare.to_json().into();
        let described = i64::try_from(document.len().min(max_config_size)).unwrap_or(i64::MAX);
        let manifest = OciManifest {
            schema_version: 2,
            media_type: MANIFEST_TYPE.to_owned(),
            config: Some(Descriptor {
                media_type: CONFIG_TYPE.to_owned(),
                digest: Digest::of(&document).to_string(),
                size: described,
                annotations: Annotations::default(),
            }),
            layers,
            manifests: Vec::new(),
        };
        let manifest = serde_json::to_vec(&manifest).map_err(|error| MalformedOci(error.to_string()))?;
        Ok(Self { manifest: manifest.into(), config: document })
    }

    /// The digest of the cache config that an OCI manifest names.
    pub(super) fn config_digest(manifest: &[u8]) -> Result<Digest, MalformedOci> {
        let manifest = parse(manifest)?;
        let descriptor = manifest.config.iter().chain(&manifest.manifests).find(|descriptor| descriptor.media_type == CONFIG_TYPE);
        let descriptor = descriptor.ok_or_else(|| MalformedOci(format!("it names no {CONFIG_TYPE}")))?;
        descriptor.digest.parse().map_err(|invalid| MalformedOci(format!("config: {invalid}")))
    }

    /// The S3 form: the cache config with each layer's descriptor as annotations, as BuildKit's own
    /// client would have written it.
    pub(super) fn into_config(self) -> Result<CacheConfig, MalformedOci> {
        let manifest = parse(&self.manifest)?;
        let descriptors: HashMap<&str, &Descriptor> =
            manifest.layers.iter().chain(&manifest.manifests).map(|descriptor| (descriptor.digest.as_str(), descriptor)).collect();
        let mut config: CacheConfig = serde_json::from_slice(&self.config).map_err(|error| MalformedOci(format!("config: {error}")))?;
        for layer in config.layers.iter_mut().flatten() {
            let descriptor =
                descriptors.get(layer.blob.as_str()).ok_or_else(|| MalformedOci(format!("it does not describe layer {}", layer.blob)))?;
            layer.annotations = Some(LayerAnnotations {
                media_type: descriptor.media_type.clone(),
                diff_id: descriptor.annotations.uncompressed.clone(),
                size: descriptor.size,
                created_at: Some(utc(descriptor.annotations.created_at.as_deref())?),
                extra: Map::<String, Value>::new(),
            });
        }
        config.validate().map_err(|malformed| MalformedOci(malformed.to_string()))?;
        Ok(config)
    }
}

fn parse(manifest: &[u8]) -> Result<OciManifest, MalformedOci> {
    serde_json::from_slice(manifest).map_err(|error| MalformedOci(error.to_string()))
}

/// BuildKit's S3 client writes times in UTC, whatever the descriptor's zone.
fn utc(time: Option<&str>) -> Result<String, MalformedOci> {
    let Some(text) = time else { return Ok(ZERO_TIME.to_owned()) };
    OffsetDateTime::parse(text, &Rfc3339)
        .map(|time| time.to_offset(UtcOffset::UTC).format(&Rfc3339))
        .map_err(|error| MalformedOci(format!("buildkit/createdat {text:?}: {error}")))?
        .map_err(|error| MalformedOci(format!("buildkit/createdat {text:?}: {error}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s3_form(created_at: &str) -> CacheConfig {
        let digest = Digest::of(b"layer").to_string();
        let json = format!(
            r#"{{"layers":[{{"blob":"{digest}","parent":-1,"annotations":{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","diffID":"{digest}","size":5,"createdAt":"{created_at}"}}}}],"records":[{{"layers":[{{"layer":0,"createdAt":"2026-01-01T00:00:00.5Z"}}],"digest":"{digest}"}}]}}"#
        );
        CacheConfig::parse(json.as_bytes()).unwrap()
    }

    #[test]
    fn there_and_back_is_the_same() {
        for time in [ZERO_TIME, "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123456789Z"] {
            let config = s3_form(time);
            let oci = OciForm::of(&config, 1 << 20).unwrap();
            assert_eq!(OciForm::config_digest(&oci.manifest).unwrap(), Digest::of(&oci.config));
            assert_eq!(oci.into_config().unwrap(), config);
        }
    }

    #[test]
    fn an_index_is_read_and_times_become_utc() {
        let oci = OciForm::of(&s3_form("2026-01-01T02:00:00Z"), 1 << 20).unwrap();
        let mut manifest: Value = serde_json::from_slice(&oci.manifest).unwrap();
        let mut entries = manifest["layers"].as_array().unwrap().clone();
        entries[0]["annotations"]["buildkit/createdat"] = "2026-01-01T04:00:00+02:00".into();
        entries.push(manifest["config"].clone());
        manifest = serde_json::json!({"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": entries});
        let index = OciForm { manifest: manifest.to_string().into(), config: oci.config };
        assert_eq!(OciForm::config_digest(&index.manifest).unwrap(), Digest::of(&index.config));
        assert_eq!(index.into_config().unwrap(), s3_form("2026-01-01T02:00:00Z"));
    }

    #[test]
    fn a_large_config_is_described_as_a_small_one() {
        let oci = OciForm::of(&s3_form(ZERO_TIME), 10).unwrap();
        let manifest: Value = serde_json::from_slice(&oci.manifest).unwrap();
        assert_eq!(manifest["config"]["size"], 10);
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let oci = OciForm::of(&s3_form(ZERO_TIME), 1 << 20).unwrap();
        let without_layers = Bytes::from(r#"{"schemaVersion":2,"layers":[]}"#);
        let error = OciForm { manifest: without_layers.clone(), config: oci.config }.into_config().unwrap_err().to_string();
        assert!(error.contains("does not describe layer"), "{error}");
        assert!(OciForm::config_digest(&without_layers).is_err());
        assert!(OciForm::config_digest(b"{").is_err());
    }
}
