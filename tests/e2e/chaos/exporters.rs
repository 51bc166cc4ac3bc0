//! Many builds export to one name at the same time.

use super::rig::{BUCKET, Contestant, Rig};
use super::verdict::{Scale, Verdict};
use crate::support::client::{Build, Client};
use crate::support::faults::seed;
use crate::support::remora::Remora;
use crate::support::stages::{self, STAGES};

/// Where remora is, half of the builds go through one process and half through another.
pub fn eight_at_once(contestant: Contestant, _: Scale) -> Verdict {
    let rig = Rig::start(contestant, seed());
    let context = stages::context();
    let another = rig.another_remora();
    let own = rig.client.address().to_owned();
    let other = another.as_ref().map_or_else(|| own.clone(), Remora::address);
    stages::export_all(&context, &rig.attrs("app"), &[own, other].map(|address| Client::buildctl(&address)));
    let mut verdict = Verdict::default();
    for (how, client, attrs) in [
        ("imported", &rig.client, rig.attrs("app")),
        ("imported natively", &Client::buildctl(&rig.buildkitd.address()), rig.minio().native(&format!("bucket={BUCKET},name=app"))),
    ] {
        rig.buildkitd.prune();
        let hits = stages::hits(&client.build(&Build { cache_from: vec![attrs], ..Build::of(context.path()) }).expect_success());
        verdict.check(hits == STAGES, || format!("{hits} of {STAGES} stages are {how}"));
    }
    if verdict.passed() {
        verdict.note(format!("{STAGES} of {STAGES} stages are imported"));
    }
    verdict
}
