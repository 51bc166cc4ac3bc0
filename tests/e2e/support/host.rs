//! buildkitd and remora as processes of this host.

use super::buildkitd::Buildkitd;
use super::cases::{Rig, Setting, Via};
use super::client::{Build, Client, Outcome};
use super::remora::{Remora, Settings};
use super::storage::Storage;

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
        let (buildkitd, storage) = (Buildkitd::start(), Storage::new(setting.store, buckets));
        let settings = Settings { transport: setting.transport, ..Settings::new(buildkitd.address(), &storage, buckets) };
        Self::assemble(setting.via, buildkitd, storage, &settings)
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

impl Rig for Host {
    fn build(&self, build: &Build) -> Outcome {
        self.client.build(build)
    }

    fn wipe(&mut self) {
        self.buildkitd.wipe();
    }
}
