//! A builder with its cache in MinIO, a fault proxy in front of MinIO, and remora between or not.

use std::time::{Duration, Instant};

use crate::support::buildkitd::Buildkitd;
use crate::support::cases::Transport;
use crate::support::client::{Build, Client, Outcome};
use crate::support::context::Context;
use crate::support::faults::FaultProxy;
use crate::support::minio::{self, Minio};
use crate::support::remora::{Remora, Settings};
use crate::support::storage::{self, Kind, Storage};

pub const BUCKET: &str = "build-cache";

/// What a build's cache goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contestant {
    /// BuildKit's own client, straight at the proxy.
    Native,
    Remora(Transport),
}

impl Contestant {
    pub const REMORAS: [Self; 2] = [Self::Remora(Transport::Relay), Self::Remora(Transport::Session)];
}

/// The parts end in the order they are written.
#[derive(Debug)]
pub struct Rig {
    pub client: Client,
    remora: Option<Remora>,
    pub buildkitd: Buildkitd,
    pub proxy: FaultProxy,
    storage: Storage,
    images: tempfile::TempDir,
}

/// A build that was waited for.
#[derive(Debug)]
pub struct Timed {
    pub outcome: Outcome,
    pub wall: Duration,
}

impl Rig {
    pub fn start(contestant: Contestant, seed: u64) -> Self {
        let (buildkitd, storage) = (Buildkitd::start(), Storage::new(Kind::Minio, &[BUCKET]));
        let proxy = FaultProxy::start(&storage.minio().endpoint(), seed);
        let remora = match contestant {
            Contestant::Native => None,
            Contestant::Remora(transport) => Some(Remora::start(&Settings {
                configuration: storage::configuration(&proxy.url(), &[BUCKET]),
                transport,
                ..Settings::new(buildkitd.address(), &storage, &[BUCKET])
            })),
        };
        let address = remora.as_ref().map_or_else(|| buildkitd.address(), Remora::address);
        Self { client: Client::buildctl(&address), remora, buildkitd, proxy, storage, images: tempfile::tempdir().expect("temp dir") }
    }

    pub fn minio(&self) -> &Minio {
        self.storage.minio()
    }

    /// The remora of this rig, which has one.
    pub fn remora(&mut self) -> &mut Remora {
        self.remora.as_mut().expect("a contestant with remora")
    }

    /// The attributes of the cache of this name.
    pub fn attrs(&self, name: &str) -> String {
        match self.remora {
            Some(_) => format!("type=s3,region={},bucket={BUCKET},name={name}", minio::REGION),
            None => minio::native(&self.proxy.url(), &format!("bucket={BUCKET},name={name}")),
        }
    }

    /// A build that imports and exports the cache of this name, and whose image is made in full.
    pub fn cached(&self, context: &Context, name: &str) -> Build {
        Build::of(context.path()).cached(&self.attrs(name)).image(&self.images.path().join("image.tar"))
    }

    pub fn build(&self, build: &Build) -> Timed {
        let started = Instant::now();
        Timed { outcome: self.client.build(build), wall: started.elapsed() }
    }
}
