//! Cache configs as BuildKit writes them, and what it reads in them.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use remora::cache::CacheConfig;
use remora::types::Digest;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

/// The digest of a blob that is called so.
pub(crate) fn digest(blob: &str) -> Digest {
    Digest::of(blob.as_bytes())
}

/// A layer as BuildKit writes it.
pub(crate) fn layer(blob: &Digest, parent: i64) -> Value {
    json!({ "blob": blob.to_string(), "parent": parent, "annotations":
        { "mediaType": "m", "diffID": blob.to_string(), "size": 5, "createdAt": "2026-01-01T00:00:00Z" } })
}

/// A manifest of layers without parents and of `records`.
pub(crate) fn document(blobs: &[Digest], records: &[Value]) -> Bytes {
    let layers: Vec<Value> = blobs.iter().map(|blob| layer(blob, -1)).collect();
    json!({ "layers": layers, "records": records }).to_string().into()
}

/// A manifest of one chain of layers, the lowest first, with their sizes in bytes.
pub(crate) fn chain_of(layers: &[(Digest, usize)]) -> Bytes {
    let layer = |(below, (digest, size)): (i64, &(Digest, usize))| {
        let annotations = json!({ "mediaType": "x", "diffID": digest.to_string(), "size": size });
        json!({ "blob": digest.to_string(), "parent": below, "annotations": annotations })
    };
    let record =
        json!({ "digest": layers[0].0.to_string(), "layers": [{ "layer": layers.len() - 1, "createdAt": "2026-01-01T00:00:00Z" }] });
    let layers: Vec<Value> = (-1..).zip(layers).map(layer).collect();
    json!({ "layers": layers, "records": [record] }).to_string().into()
}

/// A build of steps, each on top of the one before, with a layer named as the step.
pub(crate) fn chain(steps: &[&str], created: OffsetDateTime) -> Bytes {
    let layers: Vec<Value> = (-1..).zip(steps).map(|(parent, step)| layer(&digest(step), parent)).collect();
    let created = created.format(&Rfc3339).unwrap();
    let records: Vec<Value> = (0..)
        .zip(steps)
        .map(|(index, step)| {
            let mut record = json!({ "layers": [{ "layer": index, "createdAt": created }], "digest": digest(step).to_string() });
            if index > 0 {
                record["inputs"] = json!([[{ "link": index - 1 }]]);
            }
            record
        })
        .collect();
    json!({ "layers": layers, "records": records }).to_string().into()
}

/// What BuildKit makes of a config: the results of each cache key, as the blobs in their order and when
/// they were made. A key is its digest and those of its inputs, all the way down.
pub(crate) fn meaning(config: &CacheConfig) -> BTreeMap<String, BTreeSet<(OffsetDateTime, Vec<String>)>> {
    fn key(config: &CacheConfig, index: usize) -> String {
        let record = &config.records()[index];
        let inputs: Vec<BTreeSet<String>> = record
            .inputs
            .iter()
            .flatten()
            .map(|input| input.iter().flatten().map(|input| format!("{}@{}", input.selector, key(config, input.link as usize))).collect())
            .collect();
        format!("{}{inputs:?}", record.digest)
    }
    fn blobs(config: &CacheConfig, index: i64) -> Vec<String> {
        let layer = &config.layers()[index as usize];
        let mut below = if layer.parent < 0 { Vec::new() } else { blobs(config, layer.parent) };
        below.push(layer.blob.clone());
        below
    }
    let time = |text: &Option<String>| OffsetDateTime::parse(text.as_ref().unwrap(), &Rfc3339).unwrap();
    let mut meaning: BTreeMap<String, BTreeSet<_>> = BTreeMap::new();
    for (index, record) in config.records().iter().enumerate() {
        let single = record.results.iter().flatten().map(|result| (time(&result.created_at), blobs(config, result.layer)));
        let one = |&layer: &i64| config.layers()[layer as usize].blob.clone();
        let chained = record.chained_results.iter().flatten();
        let chained = chained.map(|result| (time(&result.created_at), result.layers.iter().flatten().map(one).collect()));
        meaning.entry(key(config, index)).or_default().extend(single.chain(chained));
    }
    meaning.retain(|_, results| !results.is_empty());
    meaning
}

/// When the newest result of each key was made, by the keys of [`meaning`].
pub(crate) fn newest(config: &CacheConfig) -> BTreeMap<String, OffsetDateTime> {
    meaning(config).into_iter().map(|(key, results)| (key, results.last().unwrap().0)).collect()
}
