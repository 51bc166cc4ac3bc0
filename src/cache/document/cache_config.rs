//! The cache config: the JSON document that a manifest is, `application/vnd.buildkit.cacheconfig.v0`.
//!
//! The types mirror `cache/remotecache/v1/types/spec.go` (v0.33), with two differences: fields that we do
//! not know survive, and what Go prints as `null` is kept apart from what it leaves out. Times stay text.
//! Parsing takes any document of that shape; [`CacheConfig::validate`] says whether it makes sense.

use std::collections::BTreeMap;
use std::io;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::graph;
use crate::types::Digest;

/// A cache config: layers, and the graph of records whose results they are.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct CacheConfig {
    /// The blobs, each on top of its parent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub layers: Option<Vec<Layer>>,
    /// The cache records.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub records: Option<Vec<CacheRecord>>,
    /// Fields that remora does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One blob.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Layer {
    /// Its digest.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub blob: String,
    /// Index of the layer below; -1 for none. Go leaves 0 out.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub parent: i64,
    /// What the S3 form says of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub annotations: Option<LayerAnnotations>,
    /// Fields that remora does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// What a layer is.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct LayerAnnotations {
    /// The OCI media type.
    #[serde(rename = "mediaType", default, skip_serializing_if = "String::is_empty")]
    pub media_type: String,
    /// Digest of the uncompressed layer.
    #[serde(rename = "diffID", default, skip_serializing_if = "String::is_empty")]
    pub diff_id: String,
    /// Bytes of the blob.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub size: i64,
    /// RFC 3339.
    #[serde(rename = "createdAt", default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// Fields that remora does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One step of a build: its cache key, what it was made from, and its results.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct CacheRecord {
    /// Results that are one layer (with all below it).
    #[serde(rename = "layers", default, skip_serializing_if = "Option::is_none")]
    pub results: Option<Vec<CacheResult>>,
    /// Results whose layers do not follow the parent chain.
    #[serde(rename = "chains", default, skip_serializing_if = "Option::is_none")]
    pub chained_results: Option<Vec<ChainedResult>>,
    /// The key.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub digest: String,
    /// For each input, the alternatives that it may be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub inputs: Option<Vec<Option<Vec<CacheInput>>>>,
    /// Fields that remora does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A result that is one layer.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct CacheResult {
    /// Index of the layer.
    pub layer: i64,
    /// RFC 3339.
    #[serde(rename = "createdAt", default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// Fields that remora does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// A result of layers in the order given.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct ChainedResult {
    /// Indexes of the layers; Go prints an empty list as `null`.
    pub layers: Option<Vec<i64>>,
    /// RFC 3339.
    #[serde(rename = "createdAt", default, skip_serializing_if = "Option::is_none")]
    pub created_at: Option<String>,
    /// Fields that remora does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

/// One alternative of an input.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct CacheInput {
    /// The part of the other record's result that was used.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub selector: String,
    /// Index of the other record.
    pub link: i64,
    /// Fields that remora does not know.
    #[serde(flatten)]
    pub extra: Map<String, Value>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(value: &i64) -> bool {
    *value == 0
}

/// Why a document is not a cache config that BuildKit could use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed cache config: {0}")]
pub struct MalformedConfig(String);

impl CacheConfig {
    /// Parses a document and validates it.
    ///
    /// # Errors
    /// [`MalformedConfig`], with the place in the JSON where it is one of syntax or shape.
    pub fn parse(json: &[u8]) -> Result<Self, MalformedConfig> {
        let config: Self = serde_json::from_slice(json).map_err(|error| MalformedConfig(error.to_string()))?;
        config.validate()?;
        Ok(config)
    }

    /// The document as Go's `encoding/json` prints it, so that it is the same whoever writes it.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        let mut json = Vec::new();
        let mut serializer = serde_json::Serializer::with_formatter(&mut json, LikeGo);
        // Strings, numbers and maps with string keys, into memory: nothing here can fail.
        self.serialize(&mut serializer).map_or_else(|_| Vec::new(), |()| json)
    }

    /// The layers; none where there is no list.
    #[must_use]
    pub fn layers(&self) -> &[Layer] {
        self.layers.as_deref().unwrap_or_default()
    }

    /// The records; none where there is no list.
    #[must_use]
    pub fn records(&self) -> &[CacheRecord] {
        self.records.as_deref().unwrap_or_default()
    }

    /// Every blob with its size in bytes, once each.
    #[must_use]
    pub fn blobs(&self) -> BTreeMap<Digest, u64> {
        let blob = |layer: &Layer| {
            let size = layer.annotations.as_ref().map_or(0, |annotations| u64::try_from(annotations.size).unwrap_or(0));
            Some((layer.blob.parse().ok()?, size))
        };
        self.layers().iter().filter_map(blob).collect()
    }

    /// Checks what BuildKit checks when it reads a config (digests, and indexes that lead somewhere and
    /// never in a circle), so that a document that it would refuse is refused here.
    ///
    /// # Errors
    /// [`MalformedConfig`] naming the first offence.
    pub fn validate(&self) -> Result<(), MalformedConfig> {
        self.validate_layers()?;
        self.validate_records()
    }

    fn validate_layers(&self) -> Result<(), MalformedConfig> {
        let layers = self.layers();
        for (index, layer) in layers.iter().enumerate() {
            let offence = |what: String| MalformedConfig(format!("layer {index}: {what}"));
            layer.blob.parse::<Digest>().map_err(|invalid| offence(invalid.to_string()))?;
            let annotations = layer.annotations.as_ref().ok_or_else(|| offence("no annotations".to_owned()))?;
            annotations.diff_id.parse::<Digest>().map_err(|invalid| offence(format!("diffID: {invalid}")))?;
            if annotations.size < 0 {
                return Err(offence(format!("negative size {}", annotations.size)));
            }
            if layer.parent != -1 && index_in(layer.parent, layers.len()).is_none() {
                return Err(offence(format!("parent {} does not exist", layer.parent)));
            }
        }
        let order = self.parents_first();
        order.map(|_| ()).map_err(|index| MalformedConfig(format!("layer {index} is its own ancestor")))
    }

    fn validate_records(&self) -> Result<(), MalformedConfig> {
        let layers = self.layers().len();
        let records = self.records();
        for (index, record) in records.iter().enumerate() {
            let offence = |what: String| MalformedConfig(format!("record {index}: {what}"));
            let single = record.results.iter().flatten().map(|result| result.layer);
            let chained = record.chained_results.iter().flatten().flat_map(|result| result.layers.iter().flatten().copied());
            if let Some(bad) = single.chain(chained).find(|&layer| index_in(layer, layers).is_none()) {
                return Err(offence(format!("layer {bad} does not exist")));
            }
            if let Some(input) = record.inputs.iter().flatten().position(|input| input.as_ref().is_none_or(Vec::is_empty)) {
                return Err(offence(format!("input {input} has no alternatives")));
            }
            if let Some(bad) = record.links().find(|&link| index_in(link, records.len()).is_none()) {
                return Err(offence(format!("link {bad} does not exist")));
            }
        }
        let order = self.inputs_first();
        order.map(|_| ()).map_err(|index| MalformedConfig(format!("record {index} is its own ancestor")))
    }

    /// The indexes of all layers, each after its parent; or one that is its own ancestor.
    pub(in crate::cache) fn parents_first(&self) -> Result<Vec<usize>, usize> {
        let layers = self.layers();
        graph::topological_order(layers.len(), |index| index_in(layers[index].parent, layers.len()).into_iter().collect())
    }

    /// The indexes of all records, each after its inputs; or one that is its own ancestor.
    pub(in crate::cache) fn inputs_first(&self) -> Result<Vec<usize>, usize> {
        let records = self.records();
        graph::topological_order(records.len(), |index| records[index].links().filter_map(|link| index_in(link, records.len())).collect())
    }
}

/// Escapes what Go escapes in strings, for the sake of HTML and JavaScript.
struct LikeGo;

impl serde_json::ser::Formatter for LikeGo {
    fn write_string_fragment<W: ?Sized + io::Write>(&mut self, writer: &mut W, fragment: &str) -> io::Result<()> {
        let mut rest = fragment;
        while let Some(at) = rest.find(['<', '>', '&', '\u{2028}', '\u{2029}']) {
            let (plain, special) = rest.split_at(at);
            writer.write_all(plain.as_bytes())?;
            let Some(char) = special.chars().next() else { break };
            write!(writer, "\\u{:04x}", u32::from(char))?;
            rest = &special[char.len_utf8()..];
        }
        writer.write_all(rest.as_bytes())
    }
}

impl CacheRecord {
    /// The records that it names as inputs.
    pub(in crate::cache) fn links(&self) -> impl Iterator<Item = i64> {
        self.inputs.iter().flatten().flatten().flatten().map(|input| input.link)
    }
}

/// An index of a list of `len`, if it is one.
pub(in crate::cache) fn index_in(index: i64, len: usize) -> Option<usize> {
    usize::try_from(index).ok().filter(|&index| index < len)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config(json: &str) -> Result<CacheConfig, MalformedConfig> {
        CacheConfig::parse(json.replace('@', &Digest::of(b"x").to_string()).as_bytes())
    }

    const LAYER: &str =
        r#"{"blob":"@","parent":-1,"annotations":{"mediaType":"m","diffID":"@","size":3,"createdAt":"0001-01-01T00:00:00Z"}}"#;

    #[test]
    fn unknown_fields_and_nulls_survive() {
        let json = format!(
            r#"{{"layers":[{LAYER}],"records":[{{"layers":[{{"layer":0,"createdAt":"2024-01-01T00:00:00Z","x":1}}],"chains":[{{"layers":null,"createdAt":"2024-01-01T00:00:00Z"}}],"digest":"@","inputs":[null]}}],"new":{{"a":[1.5]}}}}"#
        )
        .replace('@', &Digest::of(b"x").to_string());
        let parsed: CacheConfig = serde_json::from_str(&json).unwrap();
        assert_eq!(serde_json::to_value(&parsed).unwrap(), serde_json::from_str::<Value>(&json).unwrap());
    }

    #[test]
    fn prints_as_go_does() {
        let json = r#"{"records":[{"digest":"a\u003cb\u003e\u0026\u2028é","inputs":[[{"selector":"\"","link":0}]]}]}"#;
        let parsed: CacheConfig = serde_json::from_str(json).unwrap();
        assert_eq!(String::from_utf8(parsed.to_json()).unwrap(), json);
    }

    #[test]
    fn malformed_configs_name_the_offence() {
        let cases = [
            ("[]", "invalid type"),
            ("{} {}", "trailing"),
            (r#"{"layers":[{"blob":"sha256:../x","parent":-1}]}"#, "layer 0: invalid digest"),
            (r#"{"layers":[{"blob":"@","parent":-1}]}"#, "layer 0: no annotations"),
            (r#"{"layers":[{"blob":"@","parent":5,"annotations":{"diffID":"@"}}]}"#, "parent 5 does not exist"),
            (r#"{"layers":[{"blob":"@","annotations":{"diffID":"@"}}]}"#, "layer 0 is its own ancestor"),
            (r#"{"records":[{"layers":[{"layer":0}]}]}"#, "record 0: layer 0 does not exist"),
            (r#"{"records":[{"inputs":[[]]}]}"#, "record 0: input 0 has no alternatives"),
            (r#"{"records":[{"inputs":[[{"link":1}]]}]}"#, "record 0: link 1 does not exist"),
            (r#"{"records":[{"inputs":[[{"link":1}]]},{"inputs":[[{"link":0}]]}]}"#, "is its own ancestor"),
        ];
        for (json, wanted) in cases {
            let error = config(json).unwrap_err().to_string();
            assert!(error.contains(wanted), "{json}: {error}");
        }
        assert!(config("{}").is_ok());
    }

    #[test]
    fn a_long_chain_of_records_does_not_exhaust_the_stack() {
        let records: Vec<String> = (0..200_000)
            .map(|index| if index == 0 { "{}".to_owned() } else { format!(r#"{{"inputs":[[{{"link":{}}}]]}}"#, index - 1) })
            .collect();
        assert!(config(&format!(r#"{{"records":[{}]}}"#, records.join(","))).is_ok());
    }
}
