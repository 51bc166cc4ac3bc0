//! Many builds export to one name at the same time.

use super::rig::{BUCKET, Contestant, Rig};
use super::verdict::{Scale, Verdict};
use crate::support::client::{Build, Client, Outcome};
use crate::support::context::Context;
use crate::support::faults::seed;
use crate::support::remora::Remora;

const STAGES: usize = 8;
const TARGETS: [&str; STAGES] = ["stage-1", "stage-2", "stage-3", "stage-4", "stage-5", "stage-6", "stage-7", "stage-8"];

/// Eight stages on the same base, and one that needs all of them.
fn context() -> Context {
    let stage = |name: &&str| format!("FROM base AS {name}\nRUN busybox dd if=/dev/urandom of=/{name}. bs=100k count=5\n");
    let copy = |name: &&str| format!("COPY --from={name} /{name}. /{name}.\n");
    let (stages, copies): (String, String) = (TARGETS.iter().map(stage).collect(), TARGETS.iter().map(copy).collect());
    Context::after_base(&format!("{stages}FROM scratch\n{copies}"))
}

fn hits(outcome: &Outcome) -> usize {
    outcome.steps.iter().filter(|(name, step)| name.contains("RUN ") && step.cached).count()
}

/// Where remora is, half of the builds go through one process and half through another.
pub fn eight_at_once(contestant: Contestant, _: Scale) -> Verdict {
    let (rig, context) = (Rig::start(contestant, seed()), context());
    let another = rig.another_remora();
    let own = rig.client.address().to_owned();
    let other = another.as_ref().map_or_else(|| own.clone(), Remora::address);
    let clients = [own, other].map(|address| Client::buildctl(&address));
    let attrs = format!("{},mode=max", rig.attrs("app"));
    let export = |target: &'static str| Build { cache_to: vec![attrs.clone()], target: Some(target), ..Build::of(context.path()) };
    let started: Vec<_> =
        TARGETS.iter().zip(clients.iter().cycle()).map(|(target, client)| (client, client.start(&export(target)))).collect();
    for (client, running) in started {
        client.outcome(running).expect_success();
    }
    let mut verdict = Verdict::default();
    for (how, client, attrs) in [
        ("imported", &rig.client, rig.attrs("app")),
        ("imported natively", &Client::buildctl(&rig.buildkitd.address()), rig.minio().native(&format!("bucket={BUCKET},name=app"))),
    ] {
        rig.buildkitd.prune();
        let outcome = client.build(&Build { cache_from: vec![attrs], ..Build::of(context.path()) }).expect_success();
        let hits = hits(&outcome);
        verdict.check(hits == STAGES, || format!("{hits} of {STAGES} stages are {how}"));
    }
    if verdict.passed() {
        verdict.note(format!("{STAGES} of {STAGES} stages are imported"));
    }
    verdict
}
