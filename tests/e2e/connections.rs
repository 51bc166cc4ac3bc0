//! A build's connections to remora end with the build. buildkitd makes a client of S3 for each import and export of
//! each build, and never closes what that leaves idle.

use std::time::Duration;

use crate::support::cases::{Setting, Transport, Via};
use crate::support::client::Build;
use crate::support::connections::Connections;
use crate::support::context::Context;
use crate::support::host::Host;
use crate::support::process::{pause, within};
use crate::support::storage::Kind;

const BUILDS: usize = 50;
/// A build's connections must be gone this soon after its end.
const SOON: Duration = Duration::from_secs(6);
/// More connections than one build has at once.
const MOST: usize = 24;

#[test]
fn of_fifty_builds_over_relay_none_is_left() {
    let most = most_of_fifty_builds(Transport::Relay);
    assert!(most.s3 > 0 && most.control > 0, "they were not counted: {most:?}");
}

#[test]
fn of_fifty_builds_over_sessions_none_is_left() {
    let most = most_of_fifty_builds(Transport::Session);
    assert!(most.s3 == 0 && most.control > 0, "such a build needs the control endpoint alone: {most:?}");
}

/// The most connections at once in fifty builds, each of which begins when those of the last are gone.
fn most_of_fifty_builds(transport: Transport) -> Connections {
    let host = Host::start(Setting { via: Via::Buildctl, store: Kind::Minio, transport }, &["build-cache"]);
    let context = Context::after_base("COPY source /source\nRUN busybox sha256sum /source > /sum\n");
    let build = Build::of(context.path()).cached("type=s3,region=us-east-1,bucket=build-cache,name=app");
    let before = host.remora.connections();
    let mut most = before;
    for number in 1..=BUILDS {
        // This gives the cache something to hold.
        context.write("source", &format!("build {number}"));
        let mut running = host.client.start(&build);
        while !running.has_ended() {
            most = most.max(host.remora.connections());
            pause(Duration::from_millis(10));
        }
        host.client.outcome(running).expect_success();
        let gone = within(SOON, || host.remora.connections().is_no_more_than(before).then_some(()));
        let left = host.remora.connections();
        assert!(gone.is_some(), "{SOON:?} after build {number} over {transport:?}: {left:?}, before the first: {before:?}");
    }
    assert!(most.s3 <= MOST && most.control <= MOST, "at once over {transport:?}: {most:?}, before the first: {before:?}");
    most
}
