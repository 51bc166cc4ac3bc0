//! The two forms of a cache manifest, and the way between them.
//!
//! In S3 a manifest is one cache config whose layers carry annotations. Through a session BuildKit reads
//! and writes the OCI form: an image manifest (or an index) that describes the layers, and a cache config
//! without annotations beside it (`cache/remotecache/{export,import}.go`, v0.33). Nothing is stored in
//! the OCI form.

use std::collections::{BTreeMap, HashMap};
use std::io;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use time::format_description::well_known::Rfc3339;
use time::{OffsetDateTime, UtcOffset};

use super::inline;
use crate::cache::{CacheConfig, Layer, LayerAnnotations};
use crate::types::Digest;

pub(crate) const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG_TYPE: &str = "application/vnd.buildkit.cacheconfig.v0";
/// BuildKit's importer takes neither document if it is larger (`readBlob` in `import.go`).
const MAX_DOCUMENT_BYTES: usize = 1 << 20;
/// What the S3 form says of a layer and we do not know, as JSON; BuildKit ignores annotations it does not know.
const EXTRA: &str = "remora/extra";
/// What Go prints for a time that was never set.
const ZERO_TIME: &str = "0001-01-01T00:00:00Z";

/// The OCI form: two documents, named by their digests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OciForm {
    /// The image manifest.
    pub(crate) manifest: Bytes,
    /// The cache config that it names.
    pub(crate) config: Bytes,
}

/// Why a pair of documents is not a cache manifest.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("malformed OCI cache manifest: {0}")]
pub(crate) struct MalformedOci(String);

impl MalformedOci {
    pub(crate) fn new(why: &impl std::fmt::Display) -> Self {
        Self(why.to_string())
    }
}

/// An image manifest has `config` and `layers`, an index has `manifests` with the config among them.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct OciManifest {
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
pub(crate) struct Descriptor {
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

impl OciManifest {
    pub(crate) fn of_image(config: Descriptor, layers: Vec<Descriptor>) -> Self {
        Self { schema_version: 2, media_type: MANIFEST_TYPE.to_owned(), config: Some(config), layers, manifests: Vec::new() }
    }

    pub(crate) fn of_index(media_type: &str, manifests: Vec<Descriptor>) -> Self {
        Self { schema_version: 2, media_type: media_type.to_owned(), config: None, layers: Vec::new(), manifests }
    }
}

impl Descriptor {
    pub(crate) fn of(media_type: &str, document: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::of(document).to_string(),
            size: i64::try_from(document.len()).unwrap_or(i64::MAX),
            annotations: Annotations::default(),
        }
    }

    pub(crate) fn diff_id(&self) -> String {
        self.annotations.uncompressed.clone()
    }
}

impl Annotations {
    fn is_empty(&self) -> bool {
        self.uncompressed.is_empty() && self.created_at.is_none() && self.others.is_empty()
    }
}

/// The documents that BuildKit's importer reads a cache from; it begins with the last.
pub(crate) fn documents(mut config: CacheConfig) -> Result<Vec<Bytes>, MalformedOci> {
    let layers = take_descriptors(&mut config)?;
    let Some(document) = small(&config)? else { return inline::documents(config, layers) };
    let manifest = OciManifest::of_image(Descriptor::of(CONFIG_TYPE, &document), layers);
    match small(&manifest)? {
        Some(manifest) => Ok(vec![document, manifest]),
        None => inline::documents(config, manifest.layers),
    }
}

/// Takes what the S3 form says of the layers out of a cache, as their descriptors, in order.
fn take_descriptors(config: &mut CacheConfig) -> Result<Vec<Descriptor>, MalformedOci> {
    let descriptor = |layer: &mut Layer| {
        let annotations = layer.annotations.take().ok_or_else(|| MalformedOci(format!("layer {} has no annotations", layer.blob)))?;
        let extra = (!annotations.extra.is_empty()).then(|| (EXTRA.to_owned(), Value::from(annotations.extra).to_string()));
        Ok(Descriptor {
            media_type: annotations.media_type,
            digest: layer.blob.clone(),
            size: annotations.size,
            annotations: Annotations {
                uncompressed: annotations.diff_id,
                created_at: annotations.created_at.filter(|time| time != ZERO_TIME),
                others: extra.into_iter().collect(),
            },
        })
    };
    config.layers.iter_mut().flatten().map(descriptor).collect()
}

/// A document, if the importer takes one of its size. It is printed no further than that.
fn small(document: &impl Serialize) -> Result<Option<Bytes>, MalformedOci> {
    let mut json = io::Cursor::new(vec![0; MAX_DOCUMENT_BYTES].into_boxed_slice());
    match serde_json::to_writer(&mut json, document) {
        Ok(()) => Ok(Some(Bytes::copy_from_slice(&json.get_ref()[..usize::try_from(json.position()).unwrap_or(MAX_DOCUMENT_BYTES)]))),
        Err(error) if error.is_io() => Ok(None),
        Err(error) => Err(MalformedOci::new(&error)),
    }
}

impl OciForm {
    /// The digest of the cache config that an OCI manifest names.
    pub(crate) fn config_digest(manifest: &[u8]) -> Result<Digest, MalformedOci> {
        let manifest = parse(manifest)?;
        let descriptor = manifest.config.iter().chain(&manifest.manifests).find(|descriptor| descriptor.media_type == CONFIG_TYPE);
        let descriptor = descriptor.ok_or_else(|| MalformedOci(format!("it names no {CONFIG_TYPE}")))?;
        descriptor.digest.parse().map_err(|invalid| MalformedOci(format!("config: {invalid}")))
    }

    /// The S3 form: the cache config with each layer's descriptor as annotations, as BuildKit's own
    /// client would have written it.
    pub(crate) fn into_config(self) -> Result<CacheConfig, MalformedOci> {
        let manifest = parse(&self.manifest)?;
        let descriptors: HashMap<&str, &Descriptor> =
            manifest.layers.iter().chain(&manifest.manifests).map(|descriptor| (descriptor.digest.as_str(), descriptor)).collect();
        let mut config: CacheConfig = serde_json::from_slice(&self.config).map_err(|error| MalformedOci(format!("config: {error}")))?;
        for layer in config.layers.iter_mut().flatten() {
            let descriptor =
                descriptors.get(layer.blob.as_str()).ok_or_else(|| MalformedOci(format!("it does not describe layer {}", layer.blob)))?;
            let extra = descriptor.annotations.others.get(EXTRA).map(|extra| serde_json::from_str(extra));
            layer.annotations = Some(LayerAnnotations {
                media_type: descriptor.media_type.clone(),
                diff_id: descriptor.annotations.uncompressed.clone(),
                size: descriptor.size,
                created_at: Some(utc(descriptor.annotations.created_at.as_deref())?),
                extra: extra.transpose().map_err(|error| MalformedOci(format!("{EXTRA}: {error}")))?.unwrap_or_default(),
            });
        }
        config.validate().map_err(|malformed| MalformedOci(malformed.to_string()))?;
        Ok(config)
    }
}

fn parse(manifest: &[u8]) -> Result<OciManifest, MalformedOci> {
    serde_json::from_slice(manifest).map_err(|error| MalformedOci::new(&error))
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
    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    use proptest::prelude::*;
    use serde_json::Map;

    use super::*;
    use crate::cache::CacheRecord;

    fn s3_form(created_at: &str) -> CacheConfig {
        let digest = Digest::of(b"layer").to_string();
        let json = format!(
            r#"{{"layers":[{{"blob":"{digest}","parent":-1,"annotations":{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","diffID":"{digest}","size":5,"createdAt":"{created_at}"}}}}],"records":[{{"layers":[{{"layer":0,"createdAt":"2026-01-01T00:00:00.5Z"}}],"digest":"{digest}"}}]}}"#
        );
        CacheConfig::parse(json.as_bytes()).unwrap()
    }

    fn oci_form(config: CacheConfig) -> OciForm {
        let documents = documents(config).unwrap();
        let [config, manifest] = <[Bytes; 2]>::try_from(documents).unwrap();
        OciForm { manifest, config }
    }

    #[test]
    fn there_and_back_is_the_same() {
        for time in [ZERO_TIME, "2026-01-01T00:00:00Z", "2026-01-01T00:00:00.123456789Z"] {
            let config = s3_form(time);
            let oci = oci_form(config.clone());
            assert_eq!(OciForm::config_digest(&oci.manifest).unwrap(), Digest::of(&oci.config));
            assert_eq!(oci.into_config().unwrap(), config);
        }
    }

    #[test]
    fn an_index_is_read_and_times_become_utc() {
        let oci = oci_form(s3_form("2026-01-01T02:00:00Z"));
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
    fn what_does_not_fit_together_is_refused() {
        let oci = oci_form(s3_form(ZERO_TIME));
        let without_layers = Bytes::from(r#"{"schemaVersion":2,"layers":[]}"#);
        let error = OciForm { manifest: without_layers.clone(), config: oci.config }.into_config().unwrap_err().to_string();
        assert!(error.contains("does not describe layer"), "{error}");
        assert!(OciForm::config_digest(&without_layers).is_err());
        assert!(OciForm::config_digest(b"{").is_err());
    }

    /// What a later version may add.
    fn extra() -> impl Strategy<Value = Map<String, Value>> {
        let value =
            prop_oneof![any::<i64>().prop_map(Value::from), ".{0,5}".prop_map(Value::from), Just(serde_json::json!([null, {"a": 1.5}]))];
        prop::collection::btree_map("x-[a-zü]{1,4}", value, 0..3).prop_map(Map::from_iter)
    }

    fn with(extra: Map<String, Value>, known: Value) -> Value {
        let Value::Object(mut fields) = known else { unreachable!() };
        fields.extend(extra);
        fields.into()
    }

    fn time() -> impl Strategy<Value = &'static str> {
        prop::sample::select(vec![ZERO_TIME, "2026-01-01T00:00:00Z", "2026-02-03T04:05:06.123456789Z", "1999-12-31T23:59:59.5Z"])
    }

    fn index_below(seed: usize, len: usize) -> Option<usize> {
        (len > 0).then(|| seed % len)
    }

    prop_compose! {
        fn layer()(seed: usize, size in 0..i64::MAX, at in time(), kind in "[a-z/.+]{1,20}", layer in extra(), annotations in extra()) -> (usize, Value) {
            let annotations = with(annotations, serde_json::json!({"mediaType": kind, "size": size, "createdAt": at}));
            (seed, with(layer, serde_json::json!({"annotations": annotations})))
        }
    }

    prop_compose! {
        fn record()(seeds: [usize; 6], at in time(), selector in ".{0,3}", shape in 0..16_u8, extras in [extra(), extra(), extra(), extra()]) -> ([usize; 6], u8, Value) {
            let [record, result, chain, input] = extras;
            let parts = serde_json::json!({
                "result": with(result, serde_json::json!({"createdAt": at})),
                "chain": with(chain, serde_json::json!({"createdAt": at})),
                "input": with(input, if selector.is_empty() { serde_json::json!({}) } else { serde_json::json!({"selector": selector}) }),
            });
            (seeds, shape, with(record, serde_json::json!({"parts": parts})))
        }
    }

    prop_compose! {
        /// Any cache that BuildKit could read: trees of layers, and records that need earlier ones.
        fn cache()(layers in prop::collection::vec(layer(), 0..8), records in prop::collection::vec(record(), 0..8), top in extra()) -> CacheConfig {
            let count = layers.len();
            let layers: Vec<Value> = layers.into_iter().enumerate().map(|(index, (seed, mut layer))| {
                layer["blob"] = Digest::of(&index.to_be_bytes()).to_string().into();
                layer["parent"] = index_below(seed, index + 1).filter(|parent| *parent < index).map_or(Value::from(-1), Value::from);
                layer["annotations"]["diffID"] = Digest::of(&seed.to_be_bytes()).to_string().into();
                layer
            }).collect();
            let records: Vec<Value> = records.into_iter().enumerate().map(|(index, (seeds, shape, mut record))| {
                let parts = record.as_object_mut().unwrap().remove("parts").unwrap();
                record["digest"] = Digest::of(&seeds[0].to_be_bytes()).to_string().into();
                let layer = |seed| index_below(seed, count);
                if let (true, Some(layer)) = (shape & 1 != 0, layer(seeds[1])) {
                    let mut result = parts["result"].clone();
                    result["layer"] = layer.into();
                    record["layers"] = vec![result].into();
                }
                if let (true, Some(low), Some(high)) = (shape & 2 != 0, layer(seeds[2]), layer(seeds[3])) {
                    let mut chain = parts["chain"].clone();
                    chain["layers"] = vec![low, high].into();
                    record["chains"] = vec![chain].into();
                }
                if let (true, Some(link)) = (shape & 4 != 0, index_below(seeds[4], index)) {
                    let mut input = parts["input"].clone();
                    input["link"] = link.into();
                    record["inputs"] = vec![vec![input]].into();
                }
                record
            }).collect();
            let config = with(top, serde_json::json!({"layers": layers, "records": records}));
            CacheConfig::parse(config.to_string().as_bytes()).unwrap()
        }
    }

    /// The same form as an index: what `image-manifest=false` exports.
    fn as_index(oci: &OciForm) -> OciForm {
        let mut manifest = parse(&oci.manifest).unwrap();
        manifest.layers.extend(manifest.config);
        let index = OciManifest::of_index("application/vnd.oci.image.index.v1+json", manifest.layers);
        OciForm { manifest: serde_json::to_vec(&index).unwrap().into(), config: oci.config.clone() }
    }

    /// Each record's results as the importer understands them: the blobs from the lowest to the topmost.
    fn results(layers: &[Layer], records: &[CacheRecord]) -> Vec<(String, Vec<Vec<String>>)> {
        let blob = |index: &i64| layers[usize::try_from(*index).unwrap()].blob.clone();
        let results = |record: &CacheRecord| {
            let single = record.results.iter().flatten().map(|result| {
                let mut chain = vec![result.layer];
                while layers[usize::try_from(chain[0]).unwrap()].parent >= 0 {
                    chain.insert(0, layers[usize::try_from(chain[0]).unwrap()].parent);
                }
                chain.iter().map(blob).collect()
            });
            let chained = record.chained_results.iter().flatten().map(|result| result.layers.iter().flatten().map(blob).collect());
            (record.digest.clone(), single.chain(chained).collect())
        };
        records.iter().map(results).collect()
    }

    proptest! {
        #[test]
        fn every_cache_comes_back_as_it_was(cache in cache()) {
            let oci = oci_form(cache.clone());
            prop_assert_eq!(OciForm::config_digest(&oci.manifest), Ok(Digest::of(&oci.config)));
            prop_assert_eq!(as_index(&oci).into_config(), Ok(cache.clone()));
            prop_assert_eq!(oci.clone().into_config(), Ok(cache.clone()));
            prop_assert_eq!(oci_form(oci.clone().into_config().unwrap()), oci);
        }

        #[test]
        fn annotations_that_s3_has_no_place_for_are_left_out(cache in cache(), value in ".{0,8}") {
            let oci = oci_form(cache.clone());
            let mut manifest = parse(&oci.manifest).unwrap();
            for layer in &mut manifest.layers {
                layer.annotations.others.insert("containerd.io/distribution.source.docker.io".to_owned(), value.clone());
            }
            let annotated = OciForm { manifest: serde_json::to_vec(&manifest).unwrap().into(), ..oci };
            prop_assert_eq!(annotated.into_config(), Ok(cache));
        }

        #[test]
        fn a_large_cache_has_the_same_results(cache in cache()) {
            let mut bare = cache.clone();
            let layers = take_descriptors(&mut bare).unwrap();
            let documents = inline::documents(bare, layers).unwrap();
            let [image, manifest, index] = <[Bytes; 3]>::try_from(documents).unwrap();
            let (index, manifest) = (parse(&index).unwrap(), (parse(&manifest).unwrap(), manifest));
            prop_assert_eq!(&index.manifests[0].digest, &Digest::of(&manifest.1).to_string());
            let manifest = manifest.0;
            prop_assert_eq!(manifest.config.unwrap().digest, Digest::of(&image).to_string());
            let image: Value = serde_json::from_slice(&image).unwrap();
            let records = BASE64_STANDARD.decode(image["moby.buildkit.cache.v0"].as_str().unwrap()).unwrap();
            let records: Vec<CacheRecord> = serde_json::from_slice(&records).unwrap();
            // The importer makes one chain of the layers.
            let chain = manifest.layers.iter().map(|layer| Layer { blob: layer.digest.clone(), ..Layer::default() }).collect::<Vec<_>>();
            prop_assert_eq!(results(&chain, &records), results(cache.layers(), cache.records()));
            prop_assert_eq!(image["history"].as_array().unwrap().len(), chain.len());
            let diff_ids: Vec<String> = serde_json::from_value(image["rootfs"]["diff_ids"].clone()).unwrap();
            prop_assert!(cache.layers().iter().map(|layer| &layer.annotations.as_ref().unwrap().diff_id).eq(&diff_ids));
            prop_assert!(records.iter().all(|record| record.results.is_none()));
        }
    }

    #[test]
    fn what_is_over_one_mib_has_the_form_without_a_limit() {
        let mut cache = s3_form(ZERO_TIME);
        assert_eq!(documents(cache.clone()).unwrap().len(), 2);
        let layers = cache.layers.as_mut().unwrap();
        *layers = layers.iter().cycle().take(4000).cloned().collect();
        assert_eq!(documents(cache.clone()).unwrap().len(), 3, "many layers");
        let mut cache = s3_form(ZERO_TIME);
        let records = cache.records.as_mut().unwrap();
        *records = records.iter().cycle().take(20_000).cloned().collect();
        assert_eq!(documents(cache).unwrap().len(), 3, "many records");
    }

    #[test]
    fn results_that_name_too_many_layers_are_refused() {
        let mut cache = s3_form(ZERO_TIME);
        let (layer, record) = (cache.layers()[0].clone(), cache.records()[0].clone());
        cache.layers = Some((-1..9999).map(|parent| Layer { parent, ..layer.clone() }).collect());
        let mut deep = record;
        deep.results.as_mut().unwrap()[0].layer = 9999;
        cache.records = Some(vec![deep; 500]);
        let error = documents(cache).unwrap_err().to_string();
        assert!(error.contains("more than 4194304 layers"), "{error}");
    }
}
