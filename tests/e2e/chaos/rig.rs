//! A builder with its cache in MinIO, a fault proxy in front of MinIO, and remora between or not.

use std::time::{Duration, Instant};

use crate::support::buildkitd::Buildkitd;
use crate::support::cases::Transport;
use crate::support::client::{Build, Client, Outcome};
use crate::support::context::Context;
use crate::support::faults::FaultProxy;
use crate::support::minio::{self, Minio};
use crate::support::process::Running;
use crate::support::remora::{Remora, Settings};
use crate::support::storage::{self, Kind, Storage};

pub const BUCKET: &str = "build-cache";

/// A build that takes this long hangs. Several stalls of a minute, one after the other, take less.
pub const HANGS: Duration = Duration::from_secs(180);

/// What a build's cache goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Contestant {
    /// BuildKit's own client, straight at the proxy.
    Native,
    Remora(Transport),
}

/// The parts end in the order they are written.
#[derive(Debug)]
pub struct Rig {
    pub client: Client,
    remora: Option<Remora>,
    settings: Settings,
    pub buildkitd: Buildkitd,
    pub proxy: FaultProxy,
    storage: Storage,
    images: tempfile::TempDir,
}

/// A build that was waited for.
#[derive(Debug)]
pub struct Timed {
    /// `None`: it hung.
    pub outcome: Option<Outcome>,
    pub wall: Duration,
}

impl Timed {
    /// The outcome of a build that nothing disturbs.
    pub fn expect_success(self) -> Outcome {
        self.outcome.expect("the build hangs").expect_success()
    }
}

impl Rig {
    pub fn start(contestant: Contestant, seed: u64) -> Self {
        Self::with(contestant, seed, |_, _| ())
    }

    /// As [`Self::start`], with settings that `change` makes, which is given the MinIO.
    pub fn with(contestant: Contestant, seed: u64, change: impl FnOnce(&mut Settings, &Minio)) -> Self {
        let buildkitd = Buildkitd::start();
        let storage = Storage::new(Kind::Minio, &[BUCKET]);
        let proxy = FaultProxy::start(storage.minio().endpoint(), seed);
        let mut settings = Settings::new(buildkitd.address(), &storage, &[BUCKET]);
        settings.configuration = storage::configuration(&proxy.url(), &[BUCKET]);
        change(&mut settings, storage.minio());
        let remora = match contestant {
            Contestant::Native => None,
            Contestant::Remora(transport) => {
                settings.transport = transport;
                Some(Remora::start(&settings))
            }
        };
        let address = remora.as_ref().map_or_else(|| buildkitd.address(), Remora::address);
        Self {
            client: Client::buildctl(&address),
            remora,
            settings,
            buildkitd,
            proxy,
            storage,
            images: tempfile::tempdir().expect("temp dir"),
        }
    }

    pub fn minio(&self) -> &Minio {
        self.storage.minio()
    }

    /// The remora of this rig, which has one.
    pub fn remora(&mut self) -> &mut Remora {
        self.remora.as_mut().expect("a contestant with remora")
    }

    /// Another remora on the same bucket and builder, if this contestant has one.
    pub fn another_remora(&self) -> Option<Remora> {
        self.remora.as_ref().map(|_| Remora::start(&self.settings))
    }

    /// Whether remora, if there is one, says that it is ready.
    pub fn is_ready(&self) -> bool {
        self.remora.as_ref().is_none_or(Remora::is_ready)
    }

    /// Why what is stored is not what it should be, by `remora verify`. Native BuildKit cannot tell.
    pub fn verify(&self) -> Result<(), String> {
        match &self.remora {
            Some(remora) => {
                let verified = remora.verify(BUCKET);
                if verified.status.success() { Ok(()) } else { Err(format!("verify: {}{}", verified.stdout, verified.stderr)) }
            }
            None => Ok(()),
        }
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
        self.build_within(HANGS, build, |_| ())
    }

    /// Builds, and calls `meanwhile` while the build runs.
    pub fn build_while(&self, build: &Build, meanwhile: impl FnOnce(&mut Running)) -> Timed {
        self.build_within(HANGS, build, meanwhile)
    }

    /// As [`Self::build_while`], where a build hangs that takes longer than `limit`.
    pub fn build_within(&self, limit: Duration, build: &Build, meanwhile: impl FnOnce(&mut Running)) -> Timed {
        let started = Instant::now();
        let mut running = self.client.start(build);
        meanwhile(&mut running);
        let outcome = self.client.outcome_within(running, limit.saturating_sub(started.elapsed()));
        Timed { outcome, wall: started.elapsed() }
    }
}
