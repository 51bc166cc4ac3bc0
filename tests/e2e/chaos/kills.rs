//! `kill -9` of remora at random moments of imports and exports, again and again: what it said is stored
//! is there, nothing half written is seen, and the next start clears up.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use super::rig::{BUCKET, Contestant, Rig};
use super::verdict::{Scale, Verdict};
use crate::support::context::Context;
use crate::support::faults::seed;
use crate::support::process::{READY_LIMIT, eventually, pause, within};

/// A layer that is stored in parts, and some that are not.
const STEPS: &str = "RUN busybox dd if=/dev/urandom of=/large bs=1M count=20
RUN busybox dd if=/dev/urandom of=/first bs=1M count=3
RUN busybox dd if=/dev/urandom of=/second bs=1M count=1
";

/// How soon after a start everything is gone that the run before has left.
const CLEARED: Duration = Duration::from_secs(30);

/// Builds and kills `count` times, half of them during the first build of a context, half during a later one.
pub fn kill(contestant: Contestant, scale: Scale) -> Verdict {
    let seed = seed();
    let kills = scale.pick(4, 50);
    if contestant == Contestant::Native {
        return Verdict::noted("there is nothing to kill");
    }
    let mut rig = Rig::start(contestant, seed);
    let mut dice = StdRng::seed_from_u64(seed);
    let requests = |rig: &Rig| rig.proxy.counts().values().sum::<u64>();
    rig.build(&rig.cached(&Context::after_base(STEPS), "undisturbed")).expect_success();
    let of_a_build = requests(&rig);
    let mut contexts = Vec::new();
    let mut stored = BTreeMap::new();
    for round in 0..kills {
        if round % 2 == 0 {
            contexts.push(Context::after_base(STEPS));
        }
        let name = format!("app-{}", contexts.len());
        let context = contexts.last().expect("the first round makes one");
        rig.buildkitd.prune();
        // The kill comes after some requests to the store and some time, while something is read or written.
        let moment = requests(&rig) + dice.random_range(0..of_a_build);
        let mut running = rig.client.start(&rig.cached(context, &name));
        eventually("the moment comes, or the end", READY_LIMIT, || (requests(&rig) > moment || running.has_ended()).then_some(()));
        pause(Duration::from_millis(dice.random_range(0..30)));
        rig.remora().kill();
        if rig.client.outcome(running).status.success() {
            stored.insert(name, contexts.len() - 1);
        }
        rig.remora().boot();
        let left = |rig: &mut Rig| [rig.remora().spool(), rig.minio().open_uploads()].concat();
        let cleared = within(CLEARED, || left(&mut rig).is_empty().then_some(()));
        assert!(cleared.is_some(), "the next start leaves {:?}", left(&mut rig));
    }
    rig.remora().verify(BUCKET).expect_success();
    for (name, context) in stored {
        rig.buildkitd.prune();
        rig.build(&rig.cached(&contexts[context], &name)).expect_success().assert_cached();
    }
    Verdict::noted(&format!("{kills} kills: nothing missing, nothing wrong, nothing left over"))
}
