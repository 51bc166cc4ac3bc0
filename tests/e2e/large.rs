//! Caches that have grown large.

use remora::types::Digest;

use crate::support::cases::{Setting, Transport, Via};
use crate::support::client::Build;
use crate::support::context::Context;
use crate::support::host::Host;
use crate::support::storage::{Kind, Storage};

const BUCKET: &str = "build-cache";
const RECORDS: usize = 20_000;
const LAYERS: usize = 10_000;
/// Layers on top of each other.
const CHAIN: usize = 10;
const CREATED_AT: &str = "2026-01-02T03:04:05.006Z";

/// BuildKit's local importer takes no document that is larger than 1 MiB; native `type=s3` has no such limit,
/// so neither transport may have one.
#[test]
fn a_manifest_of_many_records_and_layers_is_imported() {
    for transport in Transport::BOTH {
        let mut host = Host::start(Setting { via: Via::Buildctl, store: Kind::Directory, transport }, &[BUCKET]);
        let context = Context::two_stages();
        let build = Build::of(context.path()).cached("type=s3,region=us-east-1,bucket=build-cache,name=app");
        host.client.build(&build).expect_success().assert_executed();
        let size = grow(&host.storage);
        assert!(size > 4 << 20, "{size} bytes are not many");
        host.buildkitd.wipe();
        let import = Build { cache_to: Vec::new(), ..build };
        host.client.build(&import).expect_success().assert_cached();
    }
}

/// Adds layers, and records that no build asks for, half of them with a layer as their result. Returns the
/// size of the manifest.
fn grow(storage: &Storage) -> usize {
    let Storage::Directory(dir) = storage else { unreachable!("the case has a directory") };
    let bucket = dir.path().join(BUCKET);
    let path = bucket.join("manifests/app");
    let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).expect("manifest")).expect("JSON");
    let layers = manifest["layers"].as_array_mut().expect("layers");
    let before = layers.len();
    layers.extend((before..before + LAYERS).map(|index| {
        let blob = index.to_le_bytes();
        let digest = Digest::of(&blob).to_string();
        std::fs::write(bucket.join("blobs").join(&digest), blob).expect("blob");
        let parent = if (index - before).is_multiple_of(CHAIN) { serde_json::json!(-1) } else { serde_json::json!(index - 1) };
        let media_type = "application/vnd.oci.image.layer.v1.tar+gzip";
        let annotations = serde_json::json!({"mediaType": media_type, "diffID": digest, "size": blob.len(), "createdAt": CREATED_AT});
        serde_json::json!({"blob": digest, "parent": parent, "annotations": annotations})
    }));
    let records = manifest["records"].as_array_mut().expect("records");
    records.extend((0..RECORDS).map(|index| {
        let digest = Digest::of(&index.to_be_bytes()).to_string();
        let mut record = serde_json::json!({"digest": digest, "inputs": [[{"link": 0}]]});
        if index < LAYERS {
            record["layers"] = serde_json::json!([{"layer": before + index, "createdAt": CREATED_AT}]);
        }
        record
    }));
    let document = serde_json::to_vec(&manifest).expect("JSON");
    std::fs::write(&path, &document).expect("manifest");
    document.len()
}
