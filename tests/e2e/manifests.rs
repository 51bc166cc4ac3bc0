//! What happens to a manifest whose blobs get lost, or that several builds export at once.

use crate::support::cases::{Setting, Transport, Via};
use crate::support::client::{Build, Client, Outcome};
use crate::support::context::Context;
use crate::support::host::Host;
use crate::support::process::Running;
use crate::support::remora::{Remora, Settings};
use crate::support::storage::Kind;

const BUCKET: &str = "build-cache";
const CACHE: &str = "type=s3,region=us-east-1,bucket=build-cache,name=app";
const STAGES: [&str; 8] = ["s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7"];

#[test]
fn layers_that_were_lost_are_built_again_and_nothing_else() {
    Transport::BOTH.into_iter().for_each(lost_layers_are_built_again);
}

/// Ten layers on top of each other; the fifth, seventh and ninth get lost.
fn lost_layers_are_built_again(transport: Transport) {
    let mut host = Host::start(Setting { via: Via::Buildctl, store: Kind::Minio, transport }, &[BUCKET]);
    let native = Client::buildctl(&host.buildkitd.address());
    // Random bytes do not compress: the size of a layer tells which step it is of.
    let steps: String = (1..=10).map(|step| format!("RUN busybox dd if=/dev/urandom of=/layer-{step}. bs=100k count={step}\n")).collect();
    let (context, images) = (Context::after_base(&steps), tempfile::tempdir().expect("temp dir"));
    let build = Build::of(context.path());
    host.client.build(&build.clone().cached(CACHE)).expect_success().assert_executed();

    let of_step = |step: usize| {
        let wanted = (100 << 10) * step..(100 << 10) * (step + 1);
        let blobs = host.storage.objects(BUCKET).into_iter();
        let mut found = blobs.filter(|(key, bytes)| key.starts_with("blobs/") && wanted.contains(&bytes.len()) && !is_busybox(bytes));
        let (key, _) = found.next().expect("a blob of this step");
        assert!(found.next().is_none(), "one blob alone has about this size");
        key
    };
    for key in [5, 7, 9].map(of_step) {
        host.storage.minio().delete(BUCKET, &key);
    }

    host.buildkitd.wipe();
    let import = Build { cache_from: vec![host.storage.minio().native("bucket=build-cache,name=app")], ..build.clone() };
    native.build(&import.image(&images.path().join("native.tar"))).expect_failure();
    host.buildkitd.wipe();
    let again = build.cached(CACHE).image(&images.path().join("again.tar"));
    let outcome = host.client.build(&again).expect_success();
    let executed = |outcome: &Outcome| -> Vec<usize> {
        (1..=10)
            .filter(|step| outcome.steps.iter().any(|(name, done)| name.contains(&format!("/layer-{step}. ")) && !done.cached))
            .collect()
    };
    assert_eq!(executed(&outcome), [5, 6, 7, 8, 9, 10], "{transport:?}: {outcome:#?}");
    assert!(host.remora.metrics().contains("remora_pruned_layers_total 6"), "{}", host.remora.metrics());
    // What was built again is in the cache again.
    host.buildkitd.wipe();
    host.client.build(&again).expect_success().assert_cached();
}

/// Whether a blob is the layer with busybox, which is no random bytes.
fn is_busybox(blob: &[u8]) -> bool {
    let mut tar = Vec::new();
    let unpacked = std::io::Read::read_to_end(&mut flate2::read::GzDecoder::new(blob), &mut tar).is_ok();
    unpacked && tar.windows(11).any(|window| window == b"bin/busybox")
}

#[test]
fn builds_that_export_to_one_name_at_once_keep_each_others_steps() {
    let mut host = Host::start(Setting { via: Via::Buildctl, store: Kind::Minio, transport: Transport::Relay }, &[BUCKET]);
    let other = Remora::start(&Settings::new(host.buildkitd.address(), &host.storage, &[BUCKET]));
    let native = Client::buildctl(&host.buildkitd.address());
    let stage = |name: &&str| format!("FROM base AS {name}\nRUN busybox dd if=/dev/urandom of=/{name} bs=100k count=1\n");
    let copy = |name: &&str| format!("COPY --from={name} /{name} /{name}\n");
    let stages: String = STAGES.iter().map(stage).collect();
    let copies: String = STAGES.iter().map(copy).collect();
    let context = Context::after_base(&format!("{stages}FROM scratch\n{copies}"));

    let clients = [Client::buildctl(&host.remora.address()), Client::buildctl(&other.address())];
    let export = |target| Build { target: Some(target), cache_to: vec![format!("{CACHE},mode=max")], ..Build::of(context.path()) };
    let running: Vec<(&Client, Running)> =
        STAGES.into_iter().zip(clients.iter().cycle()).map(|(target, client)| (client, client.start(&export(target)))).collect();
    for (client, build) in running {
        client.outcome(build).expect_success();
    }

    let all = Build::of(context.path());
    let cached = |outcome: Outcome| {
        let runs: Vec<_> = outcome.steps.iter().filter(|(name, _)| name.contains("RUN busybox dd")).collect();
        assert!(runs.len() == STAGES.len() && runs.iter().all(|(_, step)| step.cached), "{outcome:#?}");
    };
    host.buildkitd.wipe();
    cached(host.client.build(&Build { cache_from: vec![CACHE.to_owned()], ..all.clone() }).expect_success());
    host.buildkitd.wipe();
    let direct = host.storage.minio().native("bucket=build-cache,name=app");
    cached(native.build(&Build { cache_from: vec![direct], ..all }).expect_success());
}
