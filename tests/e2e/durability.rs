//! `durability=local`: an export ends without its store, and is there after an outage and a `kill -9`.

use crate::support::cases::{Setting, Transport, Via};
use crate::support::client::Build;
use crate::support::context::Context;
use crate::support::faults::Link;
use crate::support::host::Host;
use crate::support::process::{READY_LIMIT, eventually};
use crate::support::storage::Kind;

const BUCKET: &str = "build-cache";
const CACHE: &str = "type=s3,region=us-east-1,bucket=build-cache,name=app";
/// One layer is uploaded in parts, the others are not.
const STEPS: &str = "RUN busybox dd if=/dev/urandom of=/large bs=1M count=40
RUN busybox dd if=/dev/urandom of=/small bs=1M count=3
RUN echo small > /smaller
";

#[test]
fn an_export_outlives_a_silent_store_and_a_kill() {
    for transport in Transport::BOTH {
        outlives_a_silent_store_and_a_kill(transport);
    }
}

fn outlives_a_silent_store_and_a_kill(transport: Transport) {
    let (mut host, proxy) = Host::behind_proxy(Via::Buildctl, transport, &[BUCKET], "");
    let context = Context::after_base(STEPS);

    proxy.set_link(Link::Dark);
    let export = Build { cache_to: vec![format!("{CACHE},mode=max,durability=local")], ..Build::of(context.path()) };
    host.client.build(&export).expect_success();
    let waiting = host.remora.status();
    assert!(waiting["journal"]["entries"].as_u64() >= Some(4) && waiting["builds_running"] == 0, "{waiting}");
    assert!(waiting["journal"]["bytes"].as_u64() > Some(40 << 20), "{waiting}");
    assert_eq!(host.remora.metric("remora_exports_dropped_total"), 0);

    host.remora.kill();
    host.remora.boot();
    assert_eq!(host.remora.status()["journal"]["entries"], waiting["journal"]["entries"], "{}", host.remora.log());
    assert_eq!(host.storage.objects(BUCKET).len(), 0);
    proxy.set_link(Link::Up);
    eventually("the journal is finished", READY_LIMIT, || (host.remora.status()["journal"]["entries"] == 0).then_some(()));
    host.remora.verify(BUCKET).expect_success();
    assert_eq!(host.remora.spool(), Vec::<std::path::PathBuf>::new());

    // Another builder, with nothing of its own.
    host.buildkitd.wipe();
    let import = Build { cache_from: vec![CACHE.to_owned()], ..Build::of(context.path()) };
    host.client.build(&import).expect_success().assert_cached();
}

#[test]
fn on_a_directory_a_local_export_is_like_any_other_and_a_wrong_one_is_refused() {
    let host = Host::start(Setting { via: Via::Buildctl, store: Kind::Directory, transport: Transport::Relay }, &[BUCKET]);
    let context = Context::two_stages();
    let export = |durability: &str| Build { cache_to: vec![format!("{CACHE},durability={durability}")], ..Build::of(context.path()) };
    let refused = host.client.build(&export("disk")).expect_failure();
    assert!(refused.text.contains("invalid durability \"disk\": want s3 or local"), "{refused:#?}");
    host.client.build(&export("local")).expect_success();
    assert!(host.storage.objects(BUCKET).contains_key("manifests/app"));
    assert_eq!(host.remora.status()["journal"]["entries"], 0);
}
