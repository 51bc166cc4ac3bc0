//! Many small builds, four at a time, each with something new in it.

use std::time::{Duration, Instant};

use crate::support::buildkitd::Buildkitd;
use crate::support::cases::Transport;
use crate::support::client::{Build, Client};
use crate::support::context::Context;
use crate::support::minio;
use crate::support::remora::{Remora, Settings};
use crate::support::storage::{self, Kind, Storage};

const BUCKET: &str = "build-cache";
const AT_ONCE: usize = 4;
const BRANCHES: usize = 8;
/// The cache that every build imports beside that of its branch, and exports to.
const HOT: &str = "hot";
/// A build takes about a second. One that takes this long hangs.
const HANGS: Duration = Duration::from_secs(60);
/// Every build brings results that the caches of its names have not. With this bound manifests are as large after the
/// first hundred builds as after the last, so that remora and buildkitd have the same to do in every hundred.
const CONFIGURATION: &str = "manifests.max_records = 40\n";

/// A builder and a store, with remora between them or without it. The parts end in the order they are written.
#[derive(Debug)]
pub struct Group {
    client: Client,
    remora: Option<Remora>,
    buildkitd: Buildkitd,
    _storage: Storage,
    branches: Vec<Context>,
    done: usize,
}

impl Group {
    /// With no transport, builds go to buildkitd itself and have no cache options.
    pub fn start(transport: Option<Transport>) -> Self {
        let buildkitd = Buildkitd::start();
        let storage = Storage::new(Kind::Minio, &[BUCKET]);
        let remora = transport.map(|transport| {
            let mut settings = Settings { transport, ..Settings::new(buildkitd.address(), &storage, &[BUCKET]) };
            settings.configuration = settings.configuration.replace(storage::LOOKUPS, CONFIGURATION);
            Remora::start(&settings)
        });
        let client = Client::buildctl(&remora.as_ref().map_or_else(|| buildkitd.address(), Remora::address));
        let steps = "COPY source /source\nRUN busybox sha256sum /source > /sum\n";
        let branches = (0..BRANCHES).map(|_| Context::after_base(steps)).collect();
        Self { client, remora, buildkitd, _storage: storage, branches, done: 0 }
    }

    /// The remora of this group, which has one.
    pub fn remora(&self) -> &Remora {
        self.remora.as_ref().expect("a group with remora")
    }

    /// Runs this many builds more. Returns how long that took.
    pub fn build(&mut self, count: usize) -> Duration {
        let started = Instant::now();
        let numbers = self.done..self.done + count;
        std::thread::scope(|scope| {
            // No two threads have builds of one branch.
            for first in numbers.clone().take(AT_ONCE) {
                let group = &*self;
                let numbers = (first..numbers.end).step_by(AT_ONCE);
                scope.spawn(move || numbers.for_each(|number| group.build_one(number)));
            }
        });
        self.done += count;
        started.elapsed()
    }

    /// Makes the builder forget what it has built: the next build of each branch reads layers of the cache, and the
    /// builder does not become slower. (Of 500 builds without remora, buildkitd took 6.1 CPU seconds for the first
    /// hundred and 6.1 for the last.) A new builder would do that too, but the connections that are to be counted
    /// would end with the old one.
    pub fn prune(&self) {
        self.buildkitd.prune();
    }

    /// Fails the test unless every build had its cache over this transport.
    pub fn assert_all_went_over(&self, transport: Transport) {
        let name = format!("{transport:?}").to_lowercase();
        let builds = self.remora().metric(&format!("remora_builds_total{{transport=\"{name}\"}}"));
        assert_eq!(builds, self.done as u64, "builds whose cache went over {name}");
    }

    fn build_one(&self, number: usize) {
        let branch = number % BRANCHES;
        let context = &self.branches[branch];
        context.write("source", &format!("build {number}"));
        let mut build = Build::of(context.path());
        if self.remora.is_some() {
            let attrs = |names: &str| format!("type=s3,region={},bucket={BUCKET},name={names}", minio::REGION);
            build.cache_from = vec![attrs(&format!("branch-{branch}")), attrs(HOT)];
            build.cache_to = vec![format!("{},mode=max", attrs(&format!("branch-{branch};{HOT}")))];
        }
        let outcome = self.client.outcome_within(self.client.start(&build), HANGS);
        outcome.unwrap_or_else(|| panic!("build {number} hangs")).expect_success();
    }
}
