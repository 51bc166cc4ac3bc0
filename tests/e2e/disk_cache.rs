//! The disk cache under real builds: what was imported once is not read from the bucket again.

use crate::support::cases::{Transport, Via};
use crate::support::client::Build;
use crate::support::context::Context;
use crate::support::faults::{Fault, Rule};
use crate::support::host::Host;
use crate::support::image;

const BUCKET: &str = "build-cache";
const CACHE: &str = "type=s3,region=us-east-1,bucket=build-cache,name=app";

#[test]
fn a_second_import_on_an_empty_builder_reads_no_blob_from_the_bucket() {
    for transport in Transport::BOTH {
        reads_no_blob_twice(transport);
    }
}

fn reads_no_blob_twice(transport: Transport) {
    let (mut host, proxy) = Host::behind_proxy(Via::Buildctl, transport, &[BUCKET], "[disk_cache]\nenabled = true\n");
    let context = Context::two_stages();
    let images = tempfile::tempdir().expect("temp dir");
    let tar = |name: &str| images.path().join(name);
    let import = |name: &str| Build { cache_from: vec![CACHE.to_owned()], ..Build::of(context.path()).image(&tar(name)) };

    host.client.build(&Build::of(context.path()).cached(CACHE).image(&tar("cold"))).expect_success().assert_executed();
    host.buildkitd.wipe();
    host.client.build(&import("first")).expect_success().assert_cached();
    assert!(host.remora.metric("remora_disk_cache_fills_total ") > 0, "{}", host.remora.metrics());

    // From here on the bucket gives no blob to anyone, and refusing one would show.
    proxy.set_rules(vec![Rule::on("GET", "/blobs/", 1.0, Fault::SlowDown)]);
    for name in ["second", "third"] {
        host.buildkitd.wipe();
        host.client.build(&import(name)).expect_success().assert_cached();
        assert_eq!(proxy.harmed(), 0, "{transport:?}, {name}: {:?}", proxy.counts());
        assert!(host.remora.metric("remora_disk_cache_hits_total ") > 0, "{}", host.remora.metrics());
        assert_eq!(image::content(&tar(name)), image::content(&tar("cold")));
        // A restart changes nothing.
        host.remora.kill();
        host.remora.boot();
    }
}
