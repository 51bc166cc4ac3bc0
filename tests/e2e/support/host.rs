//! buildkitd and remora as processes of this host.

use std::time::Duration;

use rustix::process::Signal;

use super::buildkitd::Buildkitd;
use super::cases::{Rig, Setting, Transport, Via};
use super::client::{Build, Client, Outcome};
use super::faults::{FaultProxy, seed};
use super::process::{READY_LIMIT, Running, eventually};
use super::remora::{Remora, Settings};
use super::storage::{self, Kind, Storage};

/// How soon a process ends that has nobody left to talk to: far more than it needs.
pub const END_LIMIT: Duration = Duration::from_secs(20);
/// Bytes of a transfer that is well under way.
const MIDWAY_BYTES: u64 = 16 << 20;

/// A builder with remora in front of it. The parts end in the order they are written.
#[derive(Debug)]
pub struct Host {
    pub client: Client,
    pub remora: Remora,
    pub buildkitd: Buildkitd,
    pub storage: Storage,
}

impl Host {
    pub fn start(setting: Setting, buckets: &[&str]) -> Self {
        let buildkitd = Buildkitd::start();
        let storage = Storage::new(setting.store, buckets);
        let settings = Settings { transport: setting.transport, ..Settings::new(buildkitd.address(), &storage, buckets) };
        Self::assemble(setting.via, buildkitd, storage, &settings)
    }

    /// Starts one with its cache in MinIO behind a fault proxy. `more` is added to remora's configuration.
    pub fn behind_proxy(via: Via, transport: Transport, buckets: &[&str], more: &str) -> (Self, FaultProxy) {
        let buildkitd = Buildkitd::start();
        let storage = Storage::new(Kind::Minio, buckets);
        let proxy = FaultProxy::start(storage.minio().endpoint(), seed());
        let configuration = storage::configuration(&proxy.url(), buckets) + more;
        let settings = Settings { transport, configuration, ..Settings::new(buildkitd.address(), &storage, buckets) };
        (Self::assemble(via, buildkitd, storage, &settings), proxy)
    }

    /// As [`Self::start`], from parts that a case has prepared.
    pub fn assemble(via: Via, buildkitd: Buildkitd, storage: Storage, settings: &Settings) -> Self {
        let remora = Remora::start(settings);
        let client = match via {
            Via::Buildctl => Client::buildctl(&remora.address()),
            Via::BuildxRemote => Client::buildx_remote(&remora.address()),
            Via::BuildxContainer => unreachable!("the engine's rig is another one"),
        };
        Self { client, remora, buildkitd, storage }
    }
}

impl Host {
    /// Ends clients in the middle of their builds, as a user does and as `kill -9` does, and waits until
    /// nothing of them is left in remora.
    pub fn interrupt(&self, start: impl Fn() -> Vec<Running>, midway: impl Fn(&[Running]) -> bool) {
        let before = self.remora.footprint();
        for signal in [Signal::INT, Signal::KILL] {
            let mut clients = start();
            eventually("the builds are midway", READY_LIMIT, || {
                clients.iter_mut().for_each(Running::assert_running);
                midway(&clients).then_some(())
            });
            clients.iter().for_each(|client| client.signal(signal));
            for client in clients {
                let finished = client.finish_within(END_LIMIT);
                assert!(!finished.status.success(), "it was over before {signal:?}: {finished:#?}");
            }
            self.remora.returns_to(&before);
        }
    }

    /// Whether this much more than `before` of a metric has gone through remora.
    pub fn has_moved(&self, metric: &str, before: u64) -> bool {
        self.remora.metric(metric) >= before + MIDWAY_BYTES
    }
}

impl Rig for Host {
    fn build(&self, build: &Build) -> Outcome {
        self.client.build(build)
    }

    fn wipe(&mut self) {
        self.buildkitd.wipe();
    }
}
