//! Lost, damaged and merged layers in a directory. `chaos` has the same cases in a bucket.

use std::path::PathBuf;

use crate::support::cases::{Rig as _, Setting, Transport, Via};
use crate::support::chain::{self, LAYERS};
use crate::support::client::{Build, Client};
use crate::support::context::Context;
use crate::support::host::Host;
use crate::support::process::pause;
use crate::support::remora::{Remora, Settings};
use crate::support::stages::{self, STAGES};
use crate::support::storage::Kind;

const BUCKET: &str = "build-cache";
const CACHE: &str = "type=s3,region=us-east-1,bucket=build-cache,name=app";
const DELETED: [usize; 3] = [5, 7, 9];
const FLIPPED: usize = 4;

fn host(transport: Transport) -> Host {
    Host::start(Setting { via: Via::Buildctl, store: Kind::Directory, transport }, &[BUCKET])
}

/// A chain of layers that is cached, and forgotten by the builder.
struct Cached {
    host: Host,
    build: Build,
    /// The files of its layers, in the order of their steps.
    files: Vec<PathBuf>,
    _context: Context,
    _images: tempfile::TempDir,
}

impl Cached {
    fn new(transport: Transport) -> Self {
        let mut host = host(transport);
        let context = chain::context();
        let images = tempfile::tempdir().expect("temp dir");
        let build = Build::of(context.path()).cached(CACHE).image(&images.path().join("image.tar"));
        host.client.build(&build).expect_success().assert_executed();
        host.wipe();
        pause(chain::LOOKED_UP_AGAIN);
        let blobs = chain::blobs(&host.storage.objects(BUCKET)["manifests/app"]);
        let files = blobs.iter().map(|blob| host.storage.file(BUCKET, &format!("blobs/{blob}"))).collect();
        Self { host, build, files, _context: context, _images: images }
    }

    /// The build passes, runs the steps from `first` on and no other, and what it exports is whole.
    fn builds_again_from(&mut self, first: usize) {
        let outcome = self.host.client.build(&self.build).expect_success();
        assert_eq!(chain::executed(&outcome), (first..=LAYERS).collect(), "{outcome:#?}");
        self.host.remora.verify(BUCKET).expect_success();
        self.host.wipe();
        self.host.client.build(&self.build).expect_success().assert_cached();
    }
}

#[test]
fn layers_that_were_lost_are_built_again_and_nothing_else() {
    for transport in Transport::BOTH {
        let mut cached = Cached::new(transport);
        DELETED.iter().for_each(|&number| std::fs::remove_file(&cached.files[number]).expect("the blob"));
        cached.builds_again_from(DELETED[0]);
        assert_eq!(cached.host.remora.metric("remora_pruned_layers_total"), (LAYERS - DELETED[0] + 1) as u64, "{transport:?}");
    }
}

#[test]
fn a_layer_with_another_byte_is_built_again_and_reported() {
    for transport in Transport::BOTH {
        let mut cached = Cached::new(transport);
        let file = cached.files[FLIPPED].clone();
        let mut bytes = std::fs::read(&file).expect("the blob");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&file, &bytes).expect("the blob");
        let report = cached.host.remora.verify(BUCKET);
        let name = file.file_name().and_then(std::ffi::OsStr::to_str).expect("a digest");
        assert!(!report.status.success() && report.stdout.contains(name) && report.stdout.contains("wrong digest"), "{report:#?}");
        cached.builds_again_from(FLIPPED);
        assert_eq!(cached.host.remora.metric("remora_blobs_corrupt_total "), 1, "{transport:?}");
        assert!(std::fs::read(&file).expect("the blob") == bytes, "it stays for inspection");
    }
}

#[test]
fn exporters_to_one_name_through_two_remoras_keep_each_others_stages() {
    for transport in Transport::BOTH {
        let mut host = host(transport);
        let context = stages::context();
        let settings = Settings { transport, ..Settings::new(host.buildkitd.address(), &host.storage, &[BUCKET]) };
        let other = Remora::start(&settings);
        stages::export_all(&context, CACHE, &[&host.remora, &other].map(|remora| Client::buildctl(&remora.address())));
        host.wipe();
        let all = Build { cache_from: vec![CACHE.to_owned()], ..Build::of(context.path()) };
        let outcome = host.client.build(&all).expect_success();
        assert_eq!(stages::hits(&outcome), STAGES, "{transport:?}: {outcome:#?}");
    }
}
