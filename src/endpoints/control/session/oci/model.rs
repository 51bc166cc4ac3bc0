//! The documents of the OCI form, as far as BuildKit reads and writes them.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::types::Digest;

pub(super) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
pub(super) const CONFIG_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";
/// The annotation, as JSON, for what the S3 form says of a layer and remora does not know. BuildKit ignores
/// annotations that it does not know.
pub(super) const EXTRA: &str = "remora/extra";
/// What Go prints for a time that was never set.
pub(super) const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// Why a pair of documents is not a cache manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed OCI cache manifest: {0}")]
pub(crate) struct MalformedOci(String);

impl MalformedOci {
    pub(super) fn new(why: &impl std::fmt::Display) -> Self {
        Self(why.to_string())
    }
}

/// An image manifest has `config` and `layers`, an index has `manifests` with the config among them.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct OciManifest {
    #[serde(rename = "schemaVersion")]
    schema_version: u32,
    #[serde(rename = "mediaType", default)]
    pub(super) media_type: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) config: Option<Descriptor>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) layers: Vec<Descriptor>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) manifests: Vec<Descriptor>,
}

/// Names a document or a layer, and says what it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Descriptor {
    #[serde(rename = "mediaType", default)]
    pub(super) media_type: String,
    pub(super) digest: String,
    pub(super) size: i64,
    #[serde(default, skip_serializing_if = "Annotations::is_empty")]
    pub(super) annotations: Annotations,
}

/// What a layer's descriptor says beyond type, digest and size.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Annotations {
    #[serde(rename = "containerd.io/uncompressed", default, skip_serializing_if = "String::is_empty")]
    pub(super) uncompressed: String,
    #[serde(rename = "buildkit/createdat", default, skip_serializing_if = "Option::is_none")]
    pub(super) created_at: Option<String>,
    #[serde(flatten)]
    pub(super) others: BTreeMap<String, String>,
}

impl OciManifest {
    /// Reads an image manifest or an index.
    pub(super) fn parse(manifest: &[u8]) -> Result<Self, MalformedOci> {
        serde_json::from_slice(manifest).map_err(|error| MalformedOci::new(&error))
    }

    /// An image manifest.
    pub(super) fn of_image(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self { schema_version: 2, media_type: MANIFEST_TYPE.to_owned(), config: Some(config), layers, manifests: Vec::new() }
    }

    /// An index of these manifests.
    pub(super) fn of_index(media_type: &str, manifests: Vec<Descriptor>) -> Self {
        Self { schema_version: 2, media_type: media_type.to_owned(), config: None, layers: Vec::new(), manifests }
    }
}

impl Descriptor {
    /// The descriptor of a document.
    pub(super) fn of(media_type: &str, document: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::of(document).to_string(),
            size: i64::try_from(document.len()).unwrap_or(i64::MAX),
            annotations: Annotations::default(),
        }
    }

    /// The digest of a layer's uncompressed bytes.
    pub(super) fn diff_id(&self) -> String {
        self.annotations.uncompressed.clone()
    }
}

impl Annotations {
    fn is_empty(&self) -> bool {
        self.uncompressed.is_empty() && self.created_at.is_none() && self.others.is_empty()
    }
}
