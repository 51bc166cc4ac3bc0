//! The moments of an import and an export at which remora is told to end.

use std::time::Duration;

use super::calls::{HISTORY, SOLVE};
use super::gate::Gate;
use super::rig::Rig;
use crate::support::cases::Via;
use crate::support::faults::{Fault, Link, Rule};
use crate::support::process::{READY_LIMIT, Running, eventually, pause};

/// What a step prints when it begins to sleep, as it is in the client's progress: in base64.
pub const SLEEPS: &str = "U1RBUlRFRAo=";
/// Builds with a cache.
const BUILDS: &str = "remora_builds_total";
/// How long what was begun before stays where it is after remora knows that it is to end.
const HELD: Duration = Duration::from_millis(200);
/// How long an answer of the store stops in its midst.
const STALL: Duration = Duration::from_secs(2);
/// After this long everything has arrived that comes before a stall.
const BEFORE_STALL: Duration = Duration::from_millis(300);

/// How a moment is recognised.
#[derive(Debug, Clone, Copy)]
pub enum Event {
    /// A small build with which buildx asks what buildkitd can do has its session; its next call is not there yet.
    Question,
    /// The build has its session, and its next call is not there yet.
    Session,
    /// The build's call has arrived.
    Build,
    /// The store is asked this, and does not hear it yet.
    Request(&'static str, &'static str),
    /// The store was asked this, and its answer is not there yet.
    Answer(&'static str, &'static str),
    /// The store's answers have stopped midway through a layer.
    Midway,
    /// The step that sleeps has begun.
    Sleep,
    /// The build is over; a client that asks for its record has not got it yet.
    Over,
}

#[derive(Debug, Clone, Copy)]
pub struct Moment {
    /// Also the name under which the build is exported.
    pub name: &'static str,
    pub event: Event,
    /// Whether the build has a cache to import.
    pub imports: bool,
}

const fn at(name: &'static str, event: Event) -> Moment {
    Moment { name, event, imports: true }
}

/// How things were before the build began.
pub struct Prepared {
    gate: Option<Gate>,
    /// Requests that the proxy has harmed.
    harmed: u64,
    builds: u64,
}

/// In the order in which a build comes to them.
pub const MOMENTS: [Moment; 13] = [
    at("question-without-build", Event::Question),
    at("session-without-build", Event::Session),
    at("build-begun", Event::Build),
    at("manifest-asked-for", Event::Request("GET", "/manifests/")),
    at("first-layer-asked-for", Event::Request("GET", "/blobs/")),
    at("layer-half-read", Event::Midway),
    at("late-layer-not-read", Event::Sleep),
    Moment { imports: false, ..at("nothing-but-an-export-to-come", Event::Sleep) },
    at("first-blob-to-be-stored", Event::Request("PUT", "/blobs/")),
    at("layer-half-stored", Event::Request("PUT", "partNumber=2")),
    at("manifest-to-be-stored", Event::Request("PUT", "/manifests/")),
    at("manifest-stored", Event::Answer("PUT", "/manifests/")),
    at("build-over", Event::Over),
];

impl Moment {
    /// Whether builds of this client reach the moment.
    pub fn is_of(&self, via: Via) -> bool {
        !matches!(self.event, Event::Question) || via != Via::Buildctl
    }

    /// Seconds that the step sleeps.
    pub fn sleep(&self) -> &'static str {
        if matches!(self.event, Event::Sleep) { "2" } else { "0" }
    }

    /// Makes the moment last. This is called before the build begins.
    pub fn prepare(&self, rig: &dyn Rig, via: Via) -> Prepared {
        let rule = match self.event {
            Event::Request(method, path) => Some(Rule::on(method, path, 1.0, Fault::Dark)),
            Event::Answer(method, path) => Some(Rule::on(method, path, 1.0, Fault::DarkAnswer)),
            Event::Midway => Some(Rule::on("GET", "/blobs/", 1.0, Fault::Stall(STALL))),
            Event::Question | Event::Session | Event::Build | Event::Sleep | Event::Over => None,
        };
        rig.proxy().set_rules(rule.into_iter().collect());
        let gate = match self.event {
            Event::Question => Some((SOLVE, 0)),
            Event::Session => Some((SOLVE, usize::from(via != Via::Buildctl))),
            // buildctl asks for no record.
            Event::Over if via != Via::Buildctl => Some((HISTORY, 0)),
            _ => None,
        };
        let harmed = rig.proxy().harmed();
        let builds = rig.metric(BUILDS);
        Prepared { gate: gate.map(|(call, passing)| Gate::before(&rig.control_socket(), call, passing)), harmed, builds }
    }

    /// Waits until the moment has come.
    pub fn comes(&self, rig: &dyn Rig, client: &mut Running, prepared: &Prepared) {
        let gate = prepared.gate.as_ref();
        eventually(self.name, READY_LIMIT, || {
            let is_there = match self.event {
                Event::Question | Event::Session => gate.is_some_and(Gate::is_reached),
                Event::Build => rig.metric(BUILDS) > prepared.builds,
                Event::Request(..) | Event::Answer(..) => rig.proxy().link() == Link::Dark,
                // The first is the small layer of the context, in which the stall does not matter.
                Event::Midway => rig.proxy().harmed() >= prepared.harmed + 2,
                Event::Sleep => client.stderr().contains(SLEEPS),
                Event::Over => gate.map_or_else(|| rig.log().contains(&format!("exported {}:", self.name)), Gate::is_reached),
            };
            if !is_there && !matches!(self.event, Event::Over) {
                client.assert_running();
            }
            is_there.then_some(())
        });
        if matches!(self.event, Event::Midway) {
            pause(BEFORE_STALL);
        }
    }

    /// Lets the build go on when remora knows that it is to end.
    pub fn passes(rig: &dyn Rig, prepared: &Prepared) {
        eventually("remora drains", READY_LIMIT, || (!rig.is_ready()).then_some(()));
        pause(HELD);
        rig.proxy().set_rules(Vec::new());
        rig.proxy().set_link(Link::Up);
        if let Some(gate) = &prepared.gate {
            gate.open();
        }
    }
}
