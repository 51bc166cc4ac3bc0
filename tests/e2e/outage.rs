//! The store goes away: builds pass all the same, nothing is published that is not there, and when it is
//! back it is used again.

use std::time::{Duration, Instant};

use crate::support::cases::{Setting, Transport, Via};
use crate::support::client::{Build, Outcome};
use crate::support::context::Context;
use crate::support::host::Host;
use crate::support::process::{Running, eventually};
use crate::support::storage::{Kind, Storage};

const BUCKETS: [&str; 1] = ["build-cache"];
const CACHE: &str = "type=s3,region=us-east-1,bucket=build-cache,name=app";
/// Anything but for ever. The added time is asserted separately.
const LIMIT: Duration = Duration::from_secs(60);
/// What an outage may add to a build: 10 s are promised, the rest is for a busy machine.
const ADDED: Duration = Duration::from_secs(20);

/// A step that says when it begins and then takes its time.
const SLOW_STEP: &str = "RUN echo begun-$((40+2)) && busybox sleep 4";
const BEGUN: &str = "begun-42";
/// How long a store is away that is to come back before a build is run again without its cache.
const OUTAGE: Duration = Duration::from_secs(4);

fn host(transport: Transport) -> Host {
    Host::start(Setting { via: Via::Buildctl, store: Kind::Minio, transport }, &BUCKETS)
}

fn plain(build: Build) -> Build {
    Build { plain: true, ..build }
}

fn manifests(storage: &Storage) -> usize {
    storage.objects(BUCKETS[0]).keys().filter(|key| key.starts_with("manifests/")).count()
}

/// The end of a build that passes, and how long it took.
fn passes(host: &Host, begun: Instant, build: Running) -> (Outcome, Duration) {
    let outcome = host.client.outcome(build).expect_success();
    (outcome, begun.elapsed())
}

/// The same build again when the store is back: exported, and then cached.
fn recovers(host: &mut Host, build: &Build) {
    eventually("the breaker closes", LIMIT, || (host.remora.metric("remora_store_breaker") == 0).then_some(()));
    host.client.build(build).expect_success();
    assert_eq!(manifests(&host.storage), 1, "{}", host.remora.log());
    host.buildkitd.wipe();
    host.client.build(build).expect_success().assert_cached();
}

#[test]
fn a_store_that_is_silent_before_the_build_costs_seconds() {
    for transport in Transport::BOTH {
        let mut host = host(transport);
        let context = Context::two_stages();
        let build = Build::of(context.path()).cached(CACHE);
        let begun = Instant::now();
        host.client.build(&Build::of(context.path())).expect_success();
        let usual = begun.elapsed();
        host.buildkitd.wipe();

        host.storage.minio().freeze();
        let begun = Instant::now();
        let (outcome, took) = passes(&host, begun, host.client.start(&build));
        outcome.assert_executed();
        eprintln!("{transport:?}: {took:?} with a silent store, {usual:?} without a cache");
        assert!(took < usual + ADDED, "{took:?}, usually {usual:?}: {}", host.remora.log());
        assert!(host.remora.metric("remora_exports_dropped_total") >= 1, "{}", host.remora.metrics());
        let dropped = host.remora.log().matches("is dropped, and the build goes on").count();
        assert_eq!(dropped, 1, "{}", host.remora.log());
        host.storage.minio().thaw();
        assert_eq!(manifests(&host.storage), 0);
        recovers(&mut host, &build);
    }
}

#[test]
fn a_store_that_is_gone_costs_seconds() {
    for transport in Transport::BOTH {
        let mut host = host(transport);
        let context = Context::two_stages();
        let build = Build::of(context.path()).cached(CACHE);
        host.storage.minio_mut().stop();
        let begun = Instant::now();
        let (outcome, took) = passes(&host, begun, host.client.start(&build));
        outcome.assert_executed();
        eprintln!("{transport:?}: {took:?} with a store that is gone");
        assert!(took < LIMIT, "{took:?}");
        host.storage.minio_mut().start_again();
        recovers(&mut host, &build);
    }
}

#[test]
fn a_store_that_goes_silent_between_import_and_export_costs_seconds() {
    for transport in Transport::BOTH {
        let mut host = host(transport);
        let context = Context::after_base(&format!("RUN busybox dd if=/dev/urandom of=/first bs=1M count=3\n{SLOW_STEP}\n"));
        let build = Build::of(context.path()).cached(CACHE);
        let begun = Instant::now();
        let running = host.client.start(&plain(build.clone()));
        eventually("the slow step begins", LIMIT, || running.stderr().contains(BEGUN).then_some(()));
        host.storage.minio().freeze();
        let (_, took) = passes(&host, begun, running);
        eprintln!("{transport:?}: {took:?} with a store that goes silent before the export");
        assert!(took < LIMIT, "{took:?}");
        host.storage.minio().thaw();
        assert_eq!(manifests(&host.storage), 0);
        recovers(&mut host, &build);
    }
}

#[test]
fn a_store_that_goes_silent_during_the_export_costs_seconds() {
    for transport in Transport::BOTH {
        let mut host = host(transport);
        let layers: String = (0..6).map(|n| format!("RUN busybox dd if=/dev/urandom of=/layer{n} bs=1M count=24\n")).collect();
        let context = Context::after_base(&layers);
        let build = Build::of(context.path()).cached(CACHE);
        let begun = Instant::now();
        let running = host.client.start(&plain(build.clone()));
        eventually("the export begins", LIMIT, || (host.remora.metric("remora_received_bytes_total") > 1_000_000).then_some(()));
        host.storage.minio().freeze();
        let (_, took) = passes(&host, begun, running);
        eprintln!("{transport:?}: {took:?} with a store that goes silent during the export");
        assert!(took < LIMIT, "{took:?}");
        host.storage.minio().thaw();
        assert_eq!(manifests(&host.storage), 0);
        recovers(&mut host, &build);
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
        let sent = host.remora.metric("remora_sent_bytes_total");
        let running = host.client.start(&plain(build.clone()));
        eventually("the manifest is served", LIMIT, || {
            (host.remora.metric("remora_hits_total") + host.remora.metric("remora_sent_bytes_total") > sent).then_some(())
        });
        host.storage.minio().freeze();
        let until = Instant::now() + OUTAGE;
        eventually("the outage is over", LIMIT, || (Instant::now() > until).then_some(()));
        host.storage.minio().thaw();
        let outcome = host.client.outcome(running);
        eprintln!("{transport:?}: {}\n{}", outcome.text, host.remora.log());
        outcome.expect_success();
    }
}
