//! The store does not answer for a while. These are not cases of `chaos`, which has every stage of a build and what it
//! costs.

use std::time::{Duration, Instant};

use crate::support::buildkitd::Buildkitd;
use crate::support::cases::{Setting, Transport, Via};
use crate::support::client::Build;
use crate::support::context::Context;
use crate::support::host::Host;
use crate::support::process::eventually;
use crate::support::remora::Settings;
use crate::support::storage::{Kind, Storage};

const BUCKETS: [&str; 1] = ["build-cache"];
const CACHE: &str = "type=s3,region=us-east-1,bucket=build-cache,name=app";
/// Any build that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a store is away that is to come back before a build is run again without its cache.
const OUTAGE: Duration = Duration::from_secs(4);

fn host(transport: Transport) -> Host {
    Host::start(Setting { via: Via::Buildctl, store: Kind::Minio, transport }, &BUCKETS)
}

fn manifests(storage: &Storage) -> usize {
    storage.objects(BUCKETS[0]).keys().filter(|key| key.starts_with("manifests/")).count()
}

/// When the store is back, runs the build again twice: it is exported, and then cached.
fn recovers(host: &mut Host, build: &Build) {
    eventually("the breaker closes", LIMIT, || (host.remora.metric("remora_store_breaker") == 0).then_some(()));
    host.client.build(build).expect_success();
    assert_eq!(manifests(&host.storage), 1, "{}", host.remora.log());
    host.buildkitd.wipe();
    host.client.build(build).expect_success().assert_cached();
}

#[test]
fn a_store_that_goes_silent_while_large_layers_are_exported_fails_no_build() {
    for transport in Transport::BOTH {
        let mut host = host(transport);
        let layers: String = (0..6).map(|n| format!("RUN busybox dd if=/dev/urandom of=/layer{n} bs=1M count=24\n")).collect();
        let context = Context::after_base(&layers);
        let build = Build::of(context.path()).cached(CACHE);
        let running = host.client.start(&build);
        eventually("the export begins", LIMIT, || (host.remora.metric("remora_received_bytes_total") > 1_000_000).then_some(()));
        host.storage.minio().freeze();
        host.client.outcome(running).expect_success();
        host.storage.minio().thaw();
        assert_eq!(manifests(&host.storage), 0);
        recovers(&mut host, &build);
    }
}

#[test]
fn builds_that_are_to_fail_without_the_store_do_so_unless_they_ignore_errors() {
    for transport in Transport::BOTH {
        let buildkitd = Buildkitd::start();
        let storage = Storage::new(Kind::Minio, &BUCKETS);
        let mut settings = Settings { transport, ..Settings::new(buildkitd.address(), &storage, &BUCKETS) };
        settings.env.push(("REMORA_ON_UNAVAILABLE", "fail".to_owned()));
        let host = Host::assemble(Via::Buildctl, buildkitd, storage, &settings);
        let context = Context::two_stages();
        let export = |attrs: String| Build { cache_to: vec![attrs], ..Build::of(context.path()) };
        host.storage.minio().freeze();
        host.client.build(&export(CACHE.to_owned())).expect_failure();
        host.client.build(&export(format!("{CACHE},ignore-error=true"))).expect_success();
        host.storage.minio().thaw();
        assert_eq!((manifests(&host.storage), host.remora.metric("remora_exports_dropped_total")), (0, 0));
    }
}

/// BuildKit has decided by then to use the layers, so they must come: remora goes on asking for what it
/// promised, and the store's return saves the build.
#[test]
fn a_store_that_is_silent_for_a_while_before_a_promised_layer_makes_the_build_wait() {
    for transport in Transport::BOTH {
        let mut host = host(transport);
        let context = Context::after_base(
            "RUN busybox dd if=/dev/urandom of=/big bs=1M count=24\nCOPY changed /changed\nRUN busybox sha256sum /big /changed\n",
        );
        context.write("changed", "before");
        let build = Build::of(context.path()).cached(CACHE);
        host.client.build(&build).expect_success();
        host.buildkitd.wipe();
        context.write("changed", "after");
        let served = |host: &Host| host.remora.metric("remora_hits_total") + host.remora.metric("remora_sent_bytes_total");
        let before = served(&host);
        let running = host.client.start(&build);
        eventually("the manifest is served", LIMIT, || (served(&host) > before).then_some(()));
        host.storage.minio().freeze();
        let until = Instant::now() + OUTAGE;
        eventually("the outage is over", LIMIT, || (Instant::now() > until).then_some(()));
        host.storage.minio().thaw();
        let outcome = host.client.outcome(running).expect_success();
        let big = outcome.steps.iter().find(|(name, _)| name.contains("of=/big")).expect("the step").1;
        assert!(big.cached, "{transport:?}: {outcome:#?}");
        assert_eq!(host.remora.metric("remora_builds_replayed_total"), 0, "{}", host.remora.log());
    }
}
