//! A builder, a remora that ends and starts again, and a fault proxy between it and MinIO.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::support::admin;
use crate::support::cases::{self, Setting, Transport, Via};
use crate::support::client::Client;
use crate::support::engine::Engine;
use crate::support::faults::FaultProxy;
use crate::support::host::{END_LIMIT, Host};
use crate::support::storage::Kind;

pub const BUCKET: &str = "build-cache";

/// The parts that a moment needs, wherever they run.
pub trait Rig {
    fn client(&self) -> &Client;
    fn proxy(&self) -> &FaultProxy;
    /// remora's control socket, as a file of this host.
    fn control_socket(&self) -> PathBuf;
    /// The answer of its admin endpoint.
    fn get(&self, path: &str) -> String;
    fn log(&self) -> String;
    fn terminate(&self);
    /// Waits for remora's end: its exit code.
    fn exit_code(&mut self) -> Option<i32>;
    fn start_again(&mut self);
    /// Makes the builder forget everything.
    fn wipe(&mut self);
    fn manifests(&self) -> BTreeSet<String>;
    /// Fails the test unless everything in the store is what it should be.
    fn verify(&self);

    fn metric(&self, name: &str) -> u64 {
        admin::metric(&self.get("/metrics"), name)
    }

    fn is_ready(&self) -> bool {
        admin::is_ready(&self.get("/readyz"))
    }
}

pub fn start(via: Via, transport: Transport) -> Box<dyn Rig> {
    let setting = Setting { via, store: Kind::Minio, transport };
    match via {
        Via::BuildxContainer => Box::new(Engine::behind_proxy(setting, &[BUCKET])),
        Via::Buildctl | Via::BuildxRemote => Box::new(Proxied::start(setting)),
    }
}

/// Processes of this host.
struct Proxied {
    host: Host,
    proxy: FaultProxy,
}

impl Proxied {
    fn start(setting: Setting) -> Self {
        let (host, proxy) = Host::behind_proxy(setting.via, setting.transport, &[BUCKET], "");
        Self { host, proxy }
    }
}

impl Rig for Proxied {
    fn client(&self) -> &Client {
        &self.host.client
    }

    fn proxy(&self) -> &FaultProxy {
        &self.proxy
    }

    fn control_socket(&self) -> PathBuf {
        self.host.remora.control_socket()
    }

    fn get(&self, path: &str) -> String {
        self.host.remora.get(path)
    }

    fn log(&self) -> String {
        self.host.remora.log()
    }

    fn terminate(&self) {
        self.host.remora.terminate();
    }

    fn exit_code(&mut self) -> Option<i32> {
        self.host.remora.end_within(END_LIMIT).code()
    }

    fn start_again(&mut self) {
        self.host.remora.boot();
    }

    fn wipe(&mut self) {
        self.host.buildkitd.wipe();
    }

    fn manifests(&self) -> BTreeSet<String> {
        self.host.storage.minio().manifests(BUCKET)
    }

    fn verify(&self) {
        self.host.remora.verify(BUCKET).expect_success();
    }
}

impl Rig for Engine {
    fn client(&self) -> &Client {
        self.client()
    }

    fn proxy(&self) -> &FaultProxy {
        self.proxy()
    }

    fn control_socket(&self) -> PathBuf {
        self.control_socket()
    }

    fn get(&self, path: &str) -> String {
        self.get(path)
    }

    fn log(&self) -> String {
        self.log()
    }

    fn terminate(&self) {
        self.terminate_remora();
    }

    fn exit_code(&mut self) -> Option<i32> {
        Some(self.remora_ends())
    }

    fn start_again(&mut self) {
        self.start_remora();
    }

    fn wipe(&mut self) {
        cases::Rig::wipe(self);
    }

    fn manifests(&self) -> BTreeSet<String> {
        self.manifests(BUCKET)
    }

    fn verify(&self) {
        self.verify(BUCKET);
    }
}
