//! Single requests to the store fail while builds export and import in turn.

use std::time::Duration;

use super::rig::{Contestant, Rig};
use super::verdict::{Scale, Verdict};
use crate::support::context::Context;
use crate::support::faults::{Fault, Rule, seed};

/// The share of requests that the faults of a case harm, all together.
const RATE: f64 = 0.3;
const NATIVE_BUILDS: usize = 8;

fn stall(scale: Scale) -> Fault {
    Fault::Stall(Duration::from_secs(scale.pick(2, 60)))
}

pub fn slow_down(contestant: Contestant, scale: Scale) -> Verdict {
    builds(contestant, scale.pick(2, 8), &[Fault::SlowDown])
}

pub fn resets(contestant: Contestant, scale: Scale) -> Verdict {
    builds(contestant, scale.pick(2, 8), &[Fault::Reset])
}

pub fn stalls(contestant: Contestant, scale: Scale) -> Verdict {
    builds(contestant, 2, &[stall(scale)])
}

pub fn truncated_bodies(contestant: Contestant, scale: Scale) -> Verdict {
    builds(contestant, scale.pick(2, 8), &[Fault::Truncate])
}

pub fn wrong_etags(contestant: Contestant, scale: Scale) -> Verdict {
    builds(contestant, scale.pick(2, 8), &[Fault::WrongETag])
}

pub fn all_kinds(contestant: Contestant, scale: Scale) -> Verdict {
    let faults = [Fault::SlowDown, Fault::Reset, stall(scale), Fault::Truncate, Fault::WrongETag];
    builds(contestant, scale.pick(4, 20), &faults)
}

/// Runs builds that take turns: one exports a new context, the next imports it on a builder that has forgotten it.
fn builds(contestant: Contestant, count: usize, faults: &[Fault]) -> Verdict {
    // A few builds show how native BuildKit fares, which may wait for a minute in each.
    let count = if contestant == Contestant::Native { count.min(NATIVE_BUILDS) } else { count };
    let rig = Rig::start(contestant, seed());
    rig.proxy.set_rules(Rule::mix(RATE, faults));
    let mut verdict = Verdict::default();
    let mut hits = 0;
    let mut imports = 0;
    let mut context = Context::two_stages();
    for index in 0..count {
        let imported = index % 2 == 1;
        if !imported {
            context = Context::two_stages();
        }
        rig.buildkitd.prune();
        let built = verdict.add(rig.build(&rig.cached(&context, &format!("app-{}", index / 2))));
        imports += usize::from(imported);
        hits += usize::from(imported && built.is_some_and(|outcome| outcome.steps.values().all(|step| step.cached)));
    }
    rig.proxy.set_rules(Vec::new());
    if let Err(why) = rig.verify() {
        verdict.check(false, || why);
    }
    verdict.note(format!("{hits} of {imports} imports hit; {} requests were harmed", rig.proxy.harmed()));
    verdict
}
