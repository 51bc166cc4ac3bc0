//! What a user sees when something is set up wrongly, is not there yet, or goes away.

use std::net::TcpListener;

use crate::support::buildkitd::Buildkitd;
use crate::support::cases::{Setting, Transport, Via};
use crate::support::client::Build;
use crate::support::context::Context;
use crate::support::host::Host;
use crate::support::ports::free_port;
use crate::support::remora::Settings;
use crate::support::storage::{Kind, Storage};

const BUCKETS: [&str; 1] = ["build-cache"];
const CACHE: &str = "type=s3,region=us-east-1,bucket=build-cache,name=app";

#[test]
fn a_wrong_bucket_or_region_is_answered_with_what_is_served() {
    for via in [Via::Buildctl, Via::BuildxRemote] {
        let host = Host::start(Setting { via, store: Kind::Minio, transport: Transport::Relay }, &BUCKETS);
        let context = Context::two_stages();
        for wrong in ["region=us-east-1,bucket=other-cache", "region=eu-west-9,bucket=build-cache"] {
            let attrs = format!("type=s3,{wrong},name=app");
            let import = Build { cache_from: vec![attrs.clone()], ..Build::of(context.path()) };
            let export = Build { cache_to: vec![attrs], ..Build::of(context.path()) };
            for build in [import, export] {
                let outcome = host.client.build(&build).expect_failure();
                assert!(outcome.text.contains("build-cache") && outcome.text.contains("us-east-1"), "{wrong}: {outcome:#?}");
            }
        }
    }
}

#[test]
fn the_cache_goes_through_the_session_where_nobody_answers_buildkitd() {
    goes_through_the_session(free_port());
}

/// Nobody reads from the connection, as behind a firewall that drops packets.
#[test]
fn the_cache_goes_through_the_session_where_buildkitd_waits_in_vain() {
    let silent = TcpListener::bind("127.0.0.1:0").expect("a port");
    goes_through_the_session(silent.local_addr().expect("address").port());
}

/// A build whose buildkitd would have to reach remora at this port of loopback.
fn goes_through_the_session(port: u16) {
    let buildkitd = Buildkitd::start();
    let storage = Storage::new(Kind::Directory, &BUCKETS);
    let nobody = format!("http://127.0.0.1:{port}");
    let settings = Settings { advertise: Some(nobody.clone()), ..Settings::new(buildkitd.address(), &storage, &BUCKETS) };
    let host = Host::assemble(Via::Buildctl, buildkitd, storage, &settings);
    let context = Context::two_stages();
    let build = Build::of(context.path()).cached(CACHE);
    host.client.build(&build).expect_success().assert_executed();
    host.buildkitd.prune();
    host.client.build(&build).expect_success().assert_cached();
    let log = host.remora.log();
    let told: Vec<&str> = log.lines().filter(|line| line.contains(&nobody) && line.contains("advertise")).collect();
    assert_eq!(told.len(), 2, "one line for each build says why, and what to set:\n{log}");
}

#[test]
fn builds_work_after_buildkitd_restarted() {
    let mut host = Host::start(Setting { via: Via::BuildxRemote, store: Kind::Directory, transport: Transport::Relay }, &BUCKETS);
    let context = Context::two_stages();
    let build = Build::of(context.path()).cached(CACHE);
    host.client.build(&build).expect_success().assert_executed();
    host.buildkitd.stop();
    host.buildkitd.boot();
    host.client.build(&build).expect_success().assert_cached();
}

#[test]
fn remora_may_start_before_buildkitd() {
    let buildkitd = Buildkitd::later();
    let storage = Storage::new(Kind::Directory, &BUCKETS);
    let settings = Settings { wait_until_ready: false, ..Settings::new(buildkitd.address(), &storage, &BUCKETS) };
    let mut host = Host::assemble(Via::Buildctl, buildkitd, storage, &settings);
    let context = Context::two_stages();
    // The client connects before the builder is up: remora holds its call until the builder answers.
    let early = host.client.start(&Build::of(context.path()).cached(CACHE));
    host.buildkitd.boot();
    host.client.outcome(early).expect_success().assert_executed();
    host.buildkitd.wipe();
    host.client.build(&Build::of(context.path()).cached(CACHE)).expect_success().assert_cached();
}
