//! Builds of stages that have nothing in common but their base, each to be exported by a build of its own.

use super::client::{Build, Client, Outcome};
use super::context::Context;
use super::process::Running;

pub const STAGES: usize = 8;
const TARGETS: [&str; STAGES] = ["stage-1", "stage-2", "stage-3", "stage-4", "stage-5", "stage-6", "stage-7", "stage-8"];

/// Eight stages on the same base, and one that needs all of them.
pub fn context() -> Context {
    let stage = |name: &&str| format!("FROM base AS {name}\nRUN busybox dd if=/dev/urandom of=/{name}. bs=100k count=5\n");
    let copy = |name: &&str| format!("COPY --from={name} /{name}. /{name}.\n");
    let (stages, copies): (String, String) = (TARGETS.iter().map(stage).collect(), TARGETS.iter().map(copy).collect());
    Context::after_base(&format!("{stages}FROM scratch\n{copies}"))
}

/// Builds and exports all of them at once, by these clients in turn.
pub fn export_all(context: &Context, attrs: &str, clients: &[Client]) {
    let attrs = format!("{attrs},mode=max");
    let export = |target: &'static str| Build { cache_to: vec![attrs.clone()], target: Some(target), ..Build::of(context.path()) };
    let started: Vec<(&Client, Running)> =
        TARGETS.iter().zip(clients.iter().cycle()).map(|(target, client)| (client, client.start(&export(target)))).collect();
    for (client, running) in started {
        client.outcome(running).expect_success();
    }
}

/// How many of them came from the cache.
pub fn hits(outcome: &Outcome) -> usize {
    outcome.steps.iter().filter(|(name, step)| name.contains("RUN ") && step.cached).count()
}
