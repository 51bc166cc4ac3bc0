//! There and back, for any cache that BuildKit could read.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use proptest::prelude::*;
use serde_json::{Map, Value};

use super::documents::take_descriptors;
use super::form::OciForm;
use super::model::{OciManifest, ZERO_TIME};
use super::{documents, inline};
use crate::cache::{CacheConfig, CacheRecord, Layer};
use crate::types::Digest;

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
    let mut manifest = OciManifest::parse(&oci.manifest).unwrap();
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
        let mut manifest = OciManifest::parse(&oci.manifest).unwrap();
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
        let (index, manifest) = (OciManifest::parse(&index).unwrap(), (OciManifest::parse(&manifest).unwrap(), manifest));
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
