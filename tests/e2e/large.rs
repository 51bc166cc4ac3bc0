//! Caches that have grown.

use crate::support::cases::{Setting, Transport, Via};
use crate::support::client::Build;
use crate::support::context::Context;
use crate::support::host::Host;
use crate::support::storage::{Kind, Storage};

const BUCKET: &str = "build-cache";
const RECORDS: usize = 20_000;

/// BuildKit's local importer takes no document that is described as larger than 1 MiB; native `type=s3`
/// has no such limit, so neither transport may have one.
#[test]
fn a_manifest_of_many_records_is_imported() {
    for transport in Transport::BOTH {
        let mut host = Host::start(Setting { via: Via::Buildctl, store: Kind::Directory, transport }, &[BUCKET]);
        let context = Context::two_stages();
        let build = Build::of(context.path()).cached("type=s3,region=us-east-1,bucket=build-cache,name=app");
        host.client.build(&build).expect_success().assert_executed();
        let size = grow(&host.storage);
        assert!(size > 2 << 20, "{size} bytes are not many");
        host.buildkitd.wipe();
        let import = Build { cache_to: Vec::new(), ..build };
        host.client.build(&import).expect_success().assert_cached();
    }
}

/// Adds records that no build asks for, and returns the size of the manifest.
fn grow(storage: &Storage) -> usize {
    let Storage::Directory(dir) = storage else { unreachable!("the case has a directory") };
    let path = dir.path().join(BUCKET).join("manifests/app");
    let mut manifest: serde_json::Value = serde_json::from_slice(&std::fs::read(&path).expect("manifest")).expect("JSON");
    let records = manifest["records"].as_array_mut().expect("records");
    records.extend((0..RECORDS).map(|index| {
        let digest = remora::types::Digest::of(&index.to_le_bytes()).to_string();
        serde_json::json!({"digest": digest, "inputs": [[{"link": 0}]]})
    }));
    let document = serde_json::to_vec(&manifest).expect("JSON");
    std::fs::write(&path, &document).expect("manifest");
    document.len()
}
