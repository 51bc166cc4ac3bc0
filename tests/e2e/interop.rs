//! Native `type=s3` and remora write one format: each reads what the other wrote.

use std::collections::{BTreeMap, BTreeSet};

use crate::support::cases::{Setting, Transport, Via};
use crate::support::client::{Build, Client};
use crate::support::context::Context;
use crate::support::host::Host;
use crate::support::image;
use crate::support::remora::{Remora, Settings};
use crate::support::storage::Kind;

const BUCKET: &str = "build-cache";
const NATIVE_BUCKET: &str = "native-cache";
const SESSION_BUCKET: &str = "session-cache";

/// How the cache of a build is reached.
#[derive(Clone, Copy)]
enum Route {
    Native,
    Remora,
}

fn host(store: Kind, transport: Transport) -> Host {
    Host::start(Setting { via: Via::Buildctl, store, transport }, &[BUCKET, NATIVE_BUCKET])
}

#[test]
fn a_native_cache_is_imported_through_remora() {
    for transport in Transport::BOTH {
        imports_what_the_other_wrote(Route::Native, Route::Remora, transport);
    }
}

#[test]
fn a_cache_of_remora_is_imported_natively() {
    for transport in Transport::BOTH {
        imports_what_the_other_wrote(Route::Remora, Route::Native, transport);
    }
}

fn imports_what_the_other_wrote(writer: Route, reader: Route, transport: Transport) {
    let mut host = host(Kind::Minio, transport);
    let native = Client::buildctl(&host.buildkitd.address());
    let context = Context::two_stages();
    let images = tempfile::tempdir().expect("temp dir");
    let build = |host: &Host, route: Route, tar: &str| {
        let build = Build::of(context.path()).image(&images.path().join(tar));
        match route {
            Route::Native => native.build(&build.cached(&host.storage.minio().native("bucket=build-cache,name=app"))),
            Route::Remora => host.client.build(&build.cached("type=s3,region=us-east-1,bucket=build-cache,name=app")),
        }
        .expect_success()
    };
    build(&host, writer, "cold.tar").assert_executed();
    let keys: Vec<String> = host.storage.objects(BUCKET).into_keys().collect();

    host.buildkitd.wipe();
    build(&host, reader, "warm.tar").assert_cached();

    assert_eq!(image::content(&images.path().join("warm.tar")), image::content(&images.path().join("cold.tar")));
    assert!(host.storage.objects(BUCKET).into_keys().eq(keys), "the same cache, exported again by the other, adds nothing");
}

#[test]
fn objects_are_those_of_native_buildkit() {
    for (store, transport) in [(Kind::Minio, Transport::Relay), (Kind::Directory, Transport::Relay), (Kind::Minio, Transport::Session)] {
        let host = host(store, transport);
        let reference = crate::support::minio::Minio::start(&[NATIVE_BUCKET]);
        let native = Client::buildctl(&host.buildkitd.address());
        let context = Context::two_stages();
        let export = |attrs: String| Build { cache_to: vec![format!("{attrs},mode=max")], ..Build::of(context.path()) };
        native.build(&export(reference.native("bucket=native-cache,name=app"))).expect_success();
        host.client.build(&export("type=s3,region=us-east-1,bucket=build-cache,name=app".to_owned())).expect_success();

        let written = host.storage.objects(BUCKET);
        let expected = reference.objects(NATIVE_BUCKET);
        assert!(written.keys().eq(expected.keys()), "{store:?}: {:?}, native {:?}", written.keys(), expected.keys());
        let mut blobs = written.iter().filter(|(key, _)| key.starts_with("blobs/"));
        assert!(blobs.all(|(key, bytes)| bytes == &expected[key]), "{store:?}: a blob differs");
        assert_eq!(layers(&written["manifests/app"]), layers(&expected["manifests/app"]), "{store:?}");
    }
}

#[test]
fn a_cache_of_one_transport_is_imported_over_the_other() {
    for store in [Kind::Directory, Kind::Minio] {
        for (writer, reader) in [(Transport::Relay, Transport::Session), (Transport::Session, Transport::Relay)] {
            let mut host = host(store, writer);
            let settings = Settings { transport: reader, ..Settings::new(host.buildkitd.address(), &host.storage, &[BUCKET]) };
            let other = Remora::start(&settings);
            let context = Context::two_stages();
            let images = tempfile::tempdir().expect("temp dir");
            let build = |client: &Client, tar: &str| {
                let build = Build::of(context.path()).image(&images.path().join(tar));
                client.build(&build.cached("type=s3,region=us-east-1,bucket=build-cache,name=app")).expect_success()
            };
            build(&host.client, "cold.tar").assert_executed();
            let written = host.storage.objects(BUCKET);

            host.buildkitd.wipe();
            build(&Client::buildctl(&other.address()), "warm.tar").assert_cached();

            assert_eq!(image::content(&images.path().join("warm.tar")), image::content(&images.path().join("cold.tar")));
            assert_same_objects(&host.storage.objects(BUCKET), &written);
        }
    }
}

#[test]
fn both_transports_write_the_same_objects() {
    for store in [Kind::Directory, Kind::Minio] {
        let host = Host::start(Setting { via: Via::Buildctl, store, transport: Transport::Relay }, &[BUCKET, SESSION_BUCKET]);
        let buckets = [BUCKET, SESSION_BUCKET];
        let settings = Settings { transport: Transport::Session, ..Settings::new(host.buildkitd.address(), &host.storage, &buckets) };
        let other = Remora::start(&settings);
        let context = Context::two_stages();
        for (client, bucket) in [(&host.client, BUCKET), (&Client::buildctl(&other.address()), SESSION_BUCKET)] {
            let attrs = format!("type=s3,region=us-east-1,bucket={bucket},name=app,mode=max");
            client.build(&Build { cache_to: vec![attrs], ..Build::of(context.path()) }).expect_success();
        }
        assert_same_objects(&host.storage.objects(SESSION_BUCKET), &host.storage.objects(BUCKET));
    }
}

/// The same keys, the same blobs byte for byte, and the same manifests but for when they were made and for
/// the versions of the blobs, which remora adds.
fn assert_same_objects(objects: &BTreeMap<String, Vec<u8>>, wanted: &BTreeMap<String, Vec<u8>>) {
    assert!(objects.keys().eq(wanted.keys()), "{:?}, wanted {:?}", objects.keys(), wanted.keys());
    for (key, bytes) in objects {
        if key.starts_with("manifests/") {
            assert_eq!(timeless(bytes), timeless(&wanted[key]), "{key}");
        } else {
            assert!(bytes == &wanted[key], "{key} differs");
        }
    }
}

/// A manifest without its times and versions.
fn timeless(manifest: &[u8]) -> serde_json::Value {
    fn strip(value: &mut serde_json::Value) {
        match value {
            serde_json::Value::Object(fields) => {
                fields.remove("createdAt");
                fields.remove("remoraETag");
                fields.remove("remoraCRC64NVME");
                fields.values_mut().for_each(strip);
            }
            serde_json::Value::Array(values) => values.iter_mut().for_each(strip),
            _ => {}
        }
    }
    let mut manifest = serde_json::from_slice(manifest).expect("one JSON document");
    strip(&mut manifest);
    manifest
}

/// The layers of a manifest: blob, and the annotations that native BuildKit writes.
fn layers(manifest: &[u8]) -> BTreeSet<String> {
    let manifest: serde_json::Value = serde_json::from_slice(manifest).expect("one JSON document");
    let layers = manifest["layers"].as_array().expect("layers");
    let known = ["mediaType", "diffID", "size", "createdAt"];
    layers.iter().map(|layer| format!("{} {:?}", layer["blob"], known.map(|field| &layer["annotations"][field]))).collect()
}
