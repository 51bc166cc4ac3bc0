//! Manifests: read, checked, written, merged, pruned and converted.

use std::collections::BTreeSet;
use std::hint::black_box;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use remora::cache::{CacheConfig, MergeLimits, StoredConfig};
use remora::endpoints::control::hot_paths;
use remora::types::Digest;
use serde_json::{Value, json};
use time::OffsetDateTime;

const RECORDS: usize = 5000;
/// Steps of one build: records in a chain, every second one with a layer.
const CHAIN: usize = 50;
const LIMITS: MergeLimits =
    MergeLimits { max_generations: 24, max_records: 4 * RECORDS, max_bytes: 64 << 20, oldest: OffsetDateTime::UNIX_EPOCH };

fn digest(kind: &str, index: usize) -> String {
    Digest::of(format!("{kind} {index}").as_bytes()).to_string()
}

/// The layers and records from number `from` on, as a large project's cache has them.
fn document(from: usize) -> Value {
    let layers = (0..RECORDS / 2).map(|index| {
        let parent = if index % (CHAIN / 2) == 0 { -1 } else { index.cast_signed() - 1 };
        let annotations = json!({ "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "diffID": digest("diff", from + index),
            "size": 1000 + index, "createdAt": "2026-01-01T00:00:00Z" });
        json!({ "blob": digest("blob", from + index), "parent": parent, "annotations": annotations })
    });
    let records = (0..RECORDS).map(|index| {
        let mut record = json!({ "digest": digest("record", 2 * from + index) });
        if index % 2 == 0 {
            record["layers"] = json!([{ "layer": index / 2, "createdAt": "2026-01-01T00:00:00Z" }]);
        }
        if index % CHAIN > 0 {
            record["inputs"] = json!([[{ "link": index - 1 }]]);
        }
        record
    });
    json!({ "layers": layers.collect::<Vec<_>>(), "records": records.collect::<Vec<_>>() })
}

/// A document as an exporter writes it in a session: its image manifest, and the config beside it.
fn oci_form(mut document: Value) -> (Bytes, Bytes) {
    let descriptors = document["layers"].as_array_mut().unwrap().iter_mut().map(|layer| {
        let annotations = layer.as_object_mut().unwrap().remove("annotations").unwrap();
        json!({ "mediaType": annotations["mediaType"], "digest": layer["blob"], "size": annotations["size"], "annotations":
            { "containerd.io/uncompressed": annotations["diffID"], "buildkit/createdat": annotations["createdAt"] } })
    });
    let manifest = json!({ "schemaVersion": 2, "layers": descriptors.collect::<Vec<_>>() });
    (manifest.to_string().into(), document.to_string().into())
}

pub(crate) fn documents(criterion: &mut Criterion) {
    let json = document(0).to_string();
    let config = CacheConfig::parse(json.as_bytes()).unwrap();
    // Half of its records are new.
    let stored = CacheConfig::parse(document(RECORDS / 4).to_string().as_bytes()).unwrap();
    let hits = BTreeSet::new();
    let missing: BTreeSet<Digest> = config.blobs().into_keys().step_by(RECORDS / 20).collect();
    let mut group = criterion.benchmark_group("manifest of 5000 records");
    group.throughput(Throughput::Elements(RECORDS as u64));
    group.bench_function("parse", |bencher| bencher.iter(|| CacheConfig::parse(black_box(json.as_bytes())).unwrap()));
    group.bench_function("validate", |bencher| bencher.iter(|| black_box(&config).validate().unwrap()));
    group.bench_function("print", |bencher| bencher.iter(|| black_box(&config).to_json()));
    group.bench_function("merge with another, half of it the same", |bencher| {
        bencher.iter(|| black_box(&config).merged(&StoredConfig { config: &stored, at: OffsetDateTime::UNIX_EPOCH, hits: &hits }, &LIMITS));
    });
    group.bench_function("prune ten lost blobs", |bencher| bencher.iter(|| black_box(&config).without(&missing).unwrap()));
    group.finish();
}

pub(crate) fn conversion(criterion: &mut Criterion) {
    let document = document(0);
    let config = CacheConfig::parse(document.to_string().as_bytes()).unwrap();
    let (manifest, records) = oci_form(document);
    let mut group = criterion.benchmark_group("OCI form of 5000 records");
    group.throughput(Throughput::Elements(RECORDS as u64));
    group.bench_function("from native", |bencher| {
        bencher.iter_batched(|| config.clone(), |config| hot_paths::to_oci(config).unwrap(), criterion::BatchSize::LargeInput);
    });
    group.bench_function("to native", |bencher| {
        bencher.iter(|| hot_paths::from_oci(manifest.clone(), records.clone()).unwrap());
    });
    group.finish();
}
