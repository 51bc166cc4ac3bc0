//! The attributes of `type=s3` mean what they mean without remora.

use std::collections::BTreeSet;

use crate::support::buildkitd::Buildkitd;
use crate::support::cases::{Setting, Transport, Via};
use crate::support::client::{Build, Client};
use crate::support::context::Context;
use crate::support::host::Host;
use crate::support::minio::Minio;
use crate::support::remora::Settings;
use crate::support::storage::{Kind, Storage};

const BUCKET: &str = "build-cache";
const THROUGH_REMORA: &str = "type=s3,region=us-east-1,bucket=build-cache";

fn host(via: Via, transport: Transport) -> Host {
    Host::start(Setting { via, store: Kind::Minio, transport }, &[BUCKET])
}

/// The keys of a bucket, the first part of each being `prefix`, which is cut off.
fn keys(minio: &Minio, bucket: &str, prefix: &str) -> BTreeSet<String> {
    minio.objects(bucket).into_keys().filter_map(|key| Some(key.strip_prefix(prefix)?.to_owned())).collect()
}

#[test]
fn every_object_lands_where_native_buildkit_puts_it() {
    Transport::BOTH.into_iter().for_each(objects_land_where_native_buildkit_puts_them);
}

fn objects_land_where_native_buildkit_puts_them(transport: Transport) {
    let host = host(Via::Buildctl, transport);
    let reference = Minio::start(&[BUCKET]);
    let native = Client::buildctl(&host.buildkitd.address());
    let context = Context::two_stages();
    let mut key_counts = Vec::new();
    for (index, attrs) in [
        "name=app,mode=min",
        "name=app,mode=max",
        "name=one;two,mode=max",
        "mode=max",
        "name=team/app,blobs_prefix=b-,manifests_prefix=m/x-,mode=max",
        "name=app,blobs_prefix=,manifests_prefix=m/,mode=min",
        "name=app,mode=max,upload_parallelism=1,touch_refresh=1h,ignore-error=false",
    ]
    .into_iter()
    .enumerate()
    {
        let prefix = format!("case-{index}/");
        let export = |attrs: String| Build { cache_to: vec![attrs], ..Build::of(context.path()) };
        native.build(&export(reference.native(&format!("bucket={BUCKET},prefix={prefix},{attrs}")))).expect_success();
        host.client.build(&export(format!("{THROUGH_REMORA},prefix={prefix},{attrs}"))).expect_success();
        let (written, expected) = (keys(host.storage.minio(), BUCKET, &prefix), keys(&reference, BUCKET, &prefix));
        assert_eq!(written, expected, "{attrs}");
        key_counts.push(expected.len());
    }
    assert!(key_counts[0] < key_counts[1], "mode=max has the layers of more stages: {key_counts:?}");
    assert_eq!(key_counts[1] + 1, key_counts[2], "two names, two manifests: {key_counts:?}");
}

#[test]
fn mode_max_has_all_stages_and_mode_min_the_last() {
    Transport::BOTH.into_iter().for_each(modes_have_their_stages);
}

fn modes_have_their_stages(transport: Transport) {
    let mut host = host(Via::BuildxRemote, transport);
    let context = Context::two_stages();
    for (mode, first_stage_is_cached) in [("min", false), ("max", true)] {
        let attrs = format!("{THROUGH_REMORA},name={mode}");
        let export = Build { cache_to: vec![format!("{attrs},mode={mode}")], ..Build::of(context.path()) };
        host.client.build(&export).expect_success();
        let import = Build { cache_from: vec![attrs], ..Build::of(context.path()) };
        host.buildkitd.wipe();
        host.client.build(&import).expect_success().assert_cached();
        host.buildkitd.wipe();
        let first_stage = host.client.build(&Build { target: Some("base"), ..import }).expect_success();
        assert_eq!(first_stage.steps.values().all(|step| step.cached), first_stage_is_cached, "{mode}: {first_stage:#?}");
        host.buildkitd.wipe();
    }
}

#[test]
fn every_name_is_exported_and_the_first_imported() {
    Transport::BOTH.into_iter().for_each(names_are_exported_and_the_first_imported);
}

fn names_are_exported_and_the_first_imported(transport: Transport) {
    let mut host = host(Via::Buildctl, transport);
    let context = Context::two_stages();
    let export = Build { cache_to: vec![format!("{THROUGH_REMORA},name=one;two,mode=max")], ..Build::of(context.path()) };
    host.client.build(&export).expect_success();
    for (names, cached) in [("one", true), ("two", true), ("two;three", true), ("three;two", false)] {
        host.buildkitd.wipe();
        let import = Build { cache_from: vec![format!("{THROUGH_REMORA},name={names}")], ..Build::of(context.path()) };
        let outcome = host.client.build(&import).expect_success();
        assert_eq!(outcome.steps.values().all(|step| step.cached), cached, "{names}: {outcome:#?}");
    }
}

/// MinIO refuses writes to a bucket that does not exist; a directory refuses them below a file.
#[test]
fn ignore_error_decides_when_the_store_refuses_writes() {
    for (store, transport) in [(Kind::Minio, Transport::Relay), (Kind::Directory, Transport::Relay), (Kind::Minio, Transport::Session)] {
        let storage = Storage::new(store, &[]);
        if let Storage::Directory(dir) = &storage {
            std::fs::write(dir.path().join(BUCKET), "").expect("file");
        }
        let buildkitd = Buildkitd::start();
        let settings = Settings { wait_until_ready: false, transport, ..Settings::new(buildkitd.address(), &storage, &[BUCKET]) };
        let host = Host::assemble(Via::Buildctl, buildkitd, storage, &settings);
        let native = Client::buildctl(&host.buildkitd.address());
        let reference = Minio::start(&[]);
        let context = Context::two_stages();
        for (ignored, passes) in [("", false), (",ignore-error=false", false), (",ignore-error=true", true)] {
            let export = |attrs: String| Build { cache_to: vec![format!("{attrs}{ignored}")], ..Build::of(context.path()) };
            let expected = native.build(&export(reference.native("bucket=build-cache,name=app")));
            let outcome = host.client.build(&export(format!("{THROUGH_REMORA},name=app")));
            assert_eq!(expected.status.success(), passes, "native BuildKit, {ignored:?}: {expected:#?}");
            assert_eq!(outcome.status.success(), passes, "{store:?}, {ignored:?}: {outcome:#?}");
            assert_eq!(outcome.status.code(), expected.status.code());
            if transport == Transport::Relay {
                assert!(outcome.errors_around().contains("exporting cache to Amazon S3"), "{store:?}, {ignored:?}: {outcome:#?}");
            }
        }
    }
}
