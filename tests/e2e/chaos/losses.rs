//! Blobs that are not in the bucket any more, or not what they were.

use std::collections::BTreeSet;

use aws_sdk_s3::primitives::ByteStream;
use serde_json::Value;

use super::rig::{BUCKET, Contestant, Rig};
use super::verdict::{Scale, Verdict};
use crate::support::client::Outcome;
use crate::support::context::Context;
use crate::support::faults::seed;
use crate::support::minio::block_on;

const LAYERS: usize = 10;
const DELETED: [usize; 3] = [6, 8, 9];
const FLIPPED: usize = 5;

/// A chain of steps with a layer each; that of step 0 is the files of the context.
fn chain() -> Context {
    let step = |number: usize| format!("RUN busybox dd if=/dev/urandom of=/layer-{number}. bs=64k count={}\n", 4 * number);
    Context::after_base(&(1..=LAYERS).map(step).collect::<String>())
}

/// The blobs of the chain, in its order.
fn chain_of(manifest: &[u8]) -> Vec<String> {
    let manifest: Value = serde_json::from_slice(manifest).expect("one JSON document");
    let layers = manifest["layers"].as_array().expect("layers");
    let on_top_of = |below: i64| layers.iter().position(|layer| layer["parent"].as_i64().unwrap_or_default() == below);
    let mut chain = Vec::new();
    let mut next = on_top_of(-1);
    while let Some(index) = next {
        chain.push(layers[index]["blob"].as_str().expect("digest").to_owned());
        next = on_top_of(index.try_into().expect("few layers"));
    }
    assert_eq!(chain.len(), LAYERS + 1, "{manifest}");
    chain
}

/// The steps that were executed, by their numbers.
fn executed(outcome: &Outcome) -> BTreeSet<usize> {
    let of = |number: &usize| outcome.steps.iter().find(|(name, _)| name.contains(&format!("/layer-{number}."))).expect("the step").1;
    (1..=LAYERS).filter(|number| !of(number).cached).collect()
}

/// Caches a chain, and makes the builder forget it.
fn cached_chain(contestant: Contestant) -> (Rig, Context, Vec<String>) {
    let (rig, context) = (Rig::start(contestant, seed()), chain());
    rig.build(&rig.cached(&context, "app")).expect_success().assert_executed();
    rig.buildkitd.prune();
    let chain = chain_of(&rig.minio().objects(BUCKET)["manifests/app"]);
    (rig, context, chain)
}

pub fn three_of_ten_layers_are_deleted(contestant: Contestant, _: Scale) -> Verdict {
    let (rig, context, chain) = cached_chain(contestant);
    for number in DELETED {
        let key = format!("blobs/{}", chain[number]);
        block_on(rig.minio().client().delete_object().bucket(BUCKET).key(key).send()).expect("delete");
    }
    let mut verdict = Verdict::default();
    if let Some(outcome) = verdict.add(rig.build(&rig.cached(&context, "app"))) {
        let (again, expected) = (executed(&outcome), (DELETED[0]..=LAYERS).collect());
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
        let (again, expected) = (executed(&outcome), (FLIPPED..=LAYERS).collect());
        verdict.check(again == expected, || format!("steps {again:?} ran again, not {expected:?}"));
        // What was rebuilt has another digest, so the blob stays what it is: the manifest must not name it.
        verdict.check(rig.verify().is_ok(), || "the cache has holes".to_owned());
    }
    verdict
}
