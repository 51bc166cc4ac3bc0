//! Blobs that are gone from the bucket, or have other bytes than before.

use aws_sdk_s3::primitives::ByteStream;

use super::rig::{BUCKET, Contestant, Rig};
use super::verdict::{Scale, Verdict};
use crate::support::chain::{self, LAYERS, executed};
use crate::support::context::Context;
use crate::support::faults::seed;
use crate::support::minio::block_on;
use crate::support::process::pause;

const DELETED: [usize; 3] = [6, 8, 9];
const FLIPPED: usize = 5;

/// Caches a chain, and makes the builder forget it.
fn cached_chain(contestant: Contestant) -> (Rig, Context, Vec<String>) {
    let rig = Rig::start(contestant, seed());
    let context = chain::context();
    rig.build(&rig.cached(&context, "app")).expect_success().assert_executed();
    rig.buildkitd.prune();
    pause(chain::LOOKED_UP_AGAIN);
    let chain = chain::blobs(&rig.minio().objects(BUCKET)["manifests/app"]);
    (rig, context, chain)
}

pub fn three_of_ten_layers_are_deleted(contestant: Contestant, _: Scale) -> Verdict {
    let (rig, context, chain) = cached_chain(contestant);
    for number in DELETED {
        rig.minio().delete(BUCKET, &format!("blobs/{}", chain[number]));
    }
    let mut verdict = Verdict::default();
    if let Some(outcome) = verdict.add(rig.build(&rig.cached(&context, "app"))) {
        let again = executed(&outcome);
        let expected = (DELETED[0]..=LAYERS).collect();
        verdict.check(again == expected, || format!("steps {again:?} ran again, not {expected:?}"));
        verdict.check(rig.verify().is_ok(), || "the cache has holes".to_owned());
    }
    verdict
}

pub fn one_byte_of_a_blob_is_flipped(contestant: Contestant, _: Scale) -> Verdict {
    let (mut rig, context, chain) = cached_chain(contestant);
    let key = format!("blobs/{}", chain[FLIPPED]);
    let mut bytes = rig.minio().objects(BUCKET).remove(&key).expect("the blob");
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    let put = rig.minio().client().put_object().bucket(BUCKET).key(key).body(ByteStream::from(bytes));
    block_on(put.send()).expect("put");
    let mut verdict = Verdict::default();
    if contestant != Contestant::Native {
        let report = rig.verify().err().unwrap_or_default();
        let reported = report.contains(&chain[FLIPPED]) && report.matches("wrong digest").count() == 1;
        verdict.check(reported, || format!("`remora verify` does not report the blob: {report}"));
    }
    let built = verdict.add(rig.build(&rig.cached(&context, "app")));
    if contestant != Contestant::Native {
        let metrics = rig.remora().metrics();
        let counted = metrics.lines().any(|line| line == "remora_blobs_corrupt_total 1");
        verdict.check(counted, || "remora_blobs_corrupt_total is not 1".to_owned());
    }
    if let Some(outcome) = built {
        let again = executed(&outcome);
        let expected = (FLIPPED..=LAYERS).collect();
        verdict.check(again == expected, || format!("steps {again:?} ran again, not {expected:?}"));
        // The rebuilt layer has another digest, so the damaged blob stays: the manifest must not name it.
        verdict.check(rig.verify().is_ok(), || "the cache has holes".to_owned());
    }
    verdict
}
