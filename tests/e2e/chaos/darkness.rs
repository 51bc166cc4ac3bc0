//! The store is gone, or is there and does not answer: before a build, during its import, between, or during its
//! export.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::time::Duration;

use super::rig::{Contestant, HANGS, Rig, Timed};
use super::verdict::{Scale, Verdict};
use crate::support::context::Context;
use crate::support::faults::{Fault, Link, Rule, seed};
use crate::support::process::within;

/// How long a dead store may delay a build, alone and where other tests run at the same time.
const ADDED: Duration = Duration::from_secs(10);
const ADDED_ON_A_BUSY_MACHINE: Duration = Duration::from_secs(30);
/// Steps before the one that tells the test that it runs.
const STEPS: &str = "RUN busybox dd if=/dev/urandom of=/first bs=1M count=3\n";

pub fn nobody_listens(contestant: Contestant, scale: Scale) -> Verdict {
    dark(contestant, scale, |rig| rig.proxy.set_link(Link::Refused), |_| ())
}

pub fn before_the_build(contestant: Contestant, scale: Scale) -> Verdict {
    dark(contestant, scale, |rig| rig.proxy.set_link(Link::Dark), |_| ())
}

pub fn during_the_import(contestant: Contestant, scale: Scale) -> Verdict {
    dark(contestant, scale, |rig| rig.proxy.set_rules(vec![Rule::on("GET", "/blobs/", 1.0, Fault::Dark)]), |_| ())
}

pub fn between_import_and_export(contestant: Contestant, scale: Scale) -> Verdict {
    dark(contestant, scale, |_| (), |rig| rig.proxy.set_link(Link::Dark))
}

pub fn during_the_export(contestant: Contestant, scale: Scale) -> Verdict {
    dark(contestant, scale, |rig| rig.proxy.set_rules(vec![Rule::on("PUT", "", 1.0, Fault::Dark)]), |_| ())
}

/// Builds on a cache of the first step, with a step that lets `at_step` happen while it runs.
fn dark(contestant: Contestant, scale: Scale, prepare: impl FnOnce(&Rig), at_step: impl FnOnce(&Rig)) -> Verdict {
    let mut rig = Rig::start(contestant, seed());
    let steps = Steps::new();
    rig.build(&rig.cached(&steps.context, "app")).expect_success();
    let undisturbed = steps.build_with_another(&rig, |_| ());
    let usual = undisturbed.wall;
    undisturbed.expect_success();

    rig.buildkitd.prune();
    prepare(&rig);
    let mut verdict = Verdict::default();
    let built = steps.build_with_another(&rig, at_step);
    let added = built.wall.saturating_sub(usual);
    let passed = verdict.add(built).is_some();
    if passed {
        let allowed = scale.pick(ADDED_ON_A_BUSY_MACHINE, ADDED);
        verdict.check(added <= allowed, || format!("{:.1} s were added", added.as_secs_f64()));
        verdict.note(format!("{:.1} s were added", added.as_secs_f64()));
    }
    if contestant != Contestant::Native {
        let dropped = rig.remora().metric("remora_exports_dropped_total");
        let log = rig.remora().log();
        let told = log.matches("is dropped, and the build goes on").count();
        verdict.check((dropped, told) == (1, 1), || format!("{dropped} exports are counted as dropped, the log has {told}"));
    }
    rig.proxy.set_rules(Vec::new());
    rig.proxy.set_link(Link::Up);
    if let Err(why) = rig.verify() {
        verdict.check(false, || why);
    }
    // When the store is back, the cache soon is, too. Nothing is restarted.
    if passed {
        let context = Context::two_stages();
        let cached = |verdict: &mut Verdict| {
            rig.buildkitd.prune();
            verdict.add(rig.build(&rig.cached(&context, "after"))).is_some_and(|outcome| outcome.steps.values().all(|step| step.cached))
        };
        let recovered = (0..4).any(|_| cached(&mut verdict));
        verdict.check(recovered, || "the cache does not come back".to_owned());
        if contestant != Contestant::Native {
            let breaker = rig.remora().metric("remora_store_breaker");
            verdict.check(breaker == 0, || "the breaker is not closed".to_owned());
        }
    }
    verdict
}

/// A context to which each build adds a step.
struct Steps {
    context: Context,
    /// Steps share the host's network, and send a request here when they run.
    listener: TcpListener,
}

impl Steps {
    fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("nonblocking");
        Self { context: Context::after_base(STEPS), listener }
    }

    fn build_with_another(&self, rig: &Rig, at_step: impl FnOnce(&Rig)) -> Timed {
        let dockerfile = self.context.path().join("Dockerfile");
        let port = self.listener.local_addr().expect("address").port();
        let text = std::fs::read_to_string(&dockerfile).expect("Dockerfile");
        self.context.write("Dockerfile", &format!("{text}RUN busybox wget -q -O /step http://127.0.0.1:{port}/\n"));
        rig.build_while(&rig.cached(&self.context, "app"), |running| {
            // Where the import fails, earlier steps send theirs again. A build that fails or hangs before sends none.
            let mut at_step = Some(at_step);
            let mut asked = || self.listener.accept().map(Some).ok().or_else(|| running.has_ended().then_some(None));
            while let Some(Some((mut asking, _))) = within(HANGS, &mut asked) {
                if let Some(at_step) = at_step.take() {
                    at_step(rig);
                }
                // Without reading the request, closing would reset the connection.
                let read = asking.read(&mut [0; 1024]).expect("the request");
                assert!(read > 0, "the step went away");
                asking.write_all(b"HTTP/1.0 200 OK\r\n\r\n").expect("answer");
            }
        })
    }
}
