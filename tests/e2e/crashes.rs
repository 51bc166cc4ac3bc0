//! One end of a session disappears in the middle of a transfer: the other sees an error, and the cache is
//! what it was.

use crate::support::cases::{Rig as _, Setting, Transport, Via};
use crate::support::client::Build;
use crate::support::context::Context;
use crate::support::host::{END_LIMIT, Host};
use crate::support::process::{READY_LIMIT, Running, eventually};
use crate::support::storage::Kind;

const BUCKET: &str = "build-cache";
/// Layers are not compressed: zeros are cheap to make, and there are many bytes to transfer.
const CACHE: &str = "type=s3,region=us-east-1,bucket=build-cache,name=app,compression=uncompressed,force-compression=true";
const RECEIVED: &str = "remora_received_bytes_total";
const SENT: &str = "remora_sent_bytes_total";

#[test]
fn an_end_that_disappears_in_a_transfer_leaves_an_error_and_no_half_of_a_cache() {
    let mut host = Host::start(Setting { via: Via::Buildctl, store: Kind::Directory, transport: Transport::Session }, &[BUCKET]);
    let (context, images) =
        (Context::after_base("RUN busybox dd if=/dev/zero of=/large bs=1M count=256\n"), tempfile::tempdir().expect("temp dir"));
    let export = Build { cache_to: vec![format!("{CACHE},mode=max")], ..Build::of(context.path()) };
    // The layers of an image are fetched, those of a mere cache hit are not.
    let import = Build { cache_from: vec![CACHE.to_owned()], ..Build::of(context.path()).image(&images.path().join("image.tar")) };

    disappear(&mut host, &export, RECEIVED);
    assert_eq!(manifests(&host), Vec::<String>::new(), "nothing was exported whole");
    host.client.build(&export).expect_success();
    assert_eq!(manifests(&host), ["manifests/app"]);

    host.wipe();
    disappear(&mut host, &import, SENT);
    host.client.build(&import).expect_success().assert_cached();
    assert_sound(&host);
}

/// Ends the client and later buildkitd, each while `metric` grows.
fn disappear(host: &mut Host, build: &Build, metric: &str) {
    let before = host.remora.footprint();
    let moved = std::cell::Cell::new(0);
    let start = |host: &Host| {
        moved.set(host.remora.metric(metric));
        host.client.start(build)
    };
    host.interrupt(|| vec![start(host)], |_| host.has_moved(metric, moved.get()));
    eventually("buildkitd ends what has no client", END_LIMIT, || (!running_builds(host)).then_some(()));
    assert_sound(host);

    let mut client: Running = start(host);
    eventually("the build is midway", READY_LIMIT, || {
        client.assert_running();
        host.has_moved(metric, moved.get()).then_some(())
    });
    host.buildkitd.stop();
    let finished = client.finish_within(END_LIMIT);
    assert!(!finished.status.success(), "{finished:#?}");
    host.remora.returns_to(&before);
    assert_sound(host);
    host.buildkitd.boot();
}

fn running_builds(host: &Host) -> bool {
    host.buildkitd.buildctl(&["debug", "histories"]).expect_success().contains("STARTED")
}

fn manifests(host: &Host) -> Vec<String> {
    host.storage.objects(BUCKET).into_keys().filter(|key| key.starts_with("manifests/")).collect()
}

/// Every blob has its digest, and every manifest its blobs.
fn assert_sound(host: &Host) {
    for (key, bytes) in host.storage.objects(BUCKET) {
        if let Some(digest) = key.strip_prefix("blobs/") {
            assert_eq!(remora::types::Digest::of(&bytes).to_string(), digest);
        }
    }
    host.remora.verify(BUCKET).expect_success();
}
