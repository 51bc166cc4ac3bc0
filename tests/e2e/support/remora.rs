//! The binary under test, as an operator starts it.

use std::net::TcpStream;
use std::path::PathBuf;
use std::process::ExitStatus;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::admin;
use super::cases::Transport;
use super::connections::Connections;
use super::footprint::Footprint;
use super::minio;
use super::ports::free_port;
use super::process::{Finished, READY_LIMIT, Running, eventually, files_below, leashed, run};
use super::storage::{SECRET_VARIABLE, Storage};

/// What differs from one remora to the next.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `--buildkitd`.
    pub buildkitd: String,
    /// The configuration file: the store, and what a case adds.
    pub configuration: String,
    pub log_filter: &'static str,
    /// `--transport`.
    pub transport: Transport,
    /// `--s3-advertise`, where it is not the address of the s3 endpoint.
    pub advertise: Option<String>,
    /// Where its own files are, if not in a folder of the test.
    pub data_dir: Option<PathBuf>,
    /// More of its environment.
    pub env: Vec<(&'static str, String)>,
    /// Wait for `/readyz`; else only for `/livez`, where a case starts remora beside parts that are down.
    pub wait_until_ready: bool,
}

impl Settings {
    pub fn new(buildkitd: String, storage: &Storage, buckets: &[&str]) -> Self {
        Self {
            buildkitd,
            configuration: storage.configuration(buckets),
            log_filter: "info",
            transport: Transport::Relay,
            advertise: None,
            data_dir: None,
            env: Vec::new(),
            wait_until_ready: true,
        }
    }
}

#[derive(Debug)]
pub struct Remora {
    dir: tempfile::TempDir,
    s3_port: u16,
    admin_port: u16,
    settings: Settings,
    daemon: Option<Running>,
    /// The logs of earlier runs.
    earlier: String,
}

impl Remora {
    pub fn start(settings: &Settings) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        std::fs::write(dir.path().join("remora.toml"), &settings.configuration).expect("configuration");
        let settings = settings.clone();
        let mut remora = Self { dir, s3_port: free_port(), admin_port: free_port(), settings, daemon: None, earlier: String::new() };
        remora.boot();
        remora
    }

    /// Starts it on its old addresses and files, and waits until it serves.
    pub fn boot(&mut self) {
        let settings = &self.settings;
        let s3 = format!("127.0.0.1:{}", self.s3_port);
        let advertise = settings.advertise.clone().unwrap_or_else(|| format!("http://{s3}"));
        let mut command = self.command("serve");
        command
            .args(["--buildkitd", &settings.buildkitd, "--s3", &format!("tcp://{s3}"), "--s3-advertise", &advertise])
            .args(["--control", &self.address(), "--admin", &format!("tcp://127.0.0.1:{}", self.admin_port)])
            .args(["--log-filter", settings.log_filter, "--transport", settings.transport.flag()]);
        let mut daemon = Running::start(command);
        let path = if settings.wait_until_ready { "/readyz" } else { "/livez" };
        eventually("remora is ready", READY_LIMIT, || {
            daemon.assert_running();
            admin::is_ready(&self.get(path)).then_some(())
        });
        self.daemon = Some(daemon);
    }

    /// Ends it as `kill -9` does.
    pub fn kill(&mut self) {
        self.earlier = self.log();
        self.daemon = None;
    }

    /// Asks it to end.
    pub fn terminate(&self) {
        self.daemon.as_ref().expect("it runs").signal(Signal::TERM);
    }

    /// Waits for its end, which is to come soon.
    pub fn end_within(&mut self, limit: Duration) -> ExitStatus {
        let finished = self.daemon.take().expect("it runs").finish_within(limit);
        self.earlier += &format!("{}{}", finished.stdout, finished.stderr);
        finished.status
    }

    /// `remora verify` of a bucket.
    pub fn verify(&self, bucket: &str) -> Finished {
        let mut command = self.command("verify");
        command.args(["--json", "--bucket", bucket]);
        run(command)
    }

    /// `remora status`.
    pub fn status(&self) -> serde_json::Value {
        let mut command = program();
        command.args(["status", "--json", "--admin", &format!("tcp://127.0.0.1:{}", self.admin_port)]);
        serde_json::from_str(&run(command).expect_success()).expect("JSON")
    }

    /// What waits in its spool.
    pub fn spool(&self) -> Vec<PathBuf> {
        files_below(&self.data_dir().join("spool"))
    }

    /// The address of its control endpoint.
    pub fn address(&self) -> String {
        format!("unix://{}", self.control_socket().display())
    }

    /// The URL of its s3 endpoint.
    pub fn s3_url(&self) -> String {
        format!("http://127.0.0.1:{}", self.s3_port)
    }

    /// Everything that it has logged, from the first start on.
    pub fn log(&self) -> String {
        let current = self.daemon.as_ref().map(|daemon| format!("{}{}", daemon.stdout(), daemon.stderr()));
        format!("{}{}", self.earlier, current.unwrap_or_default())
    }

    pub fn metrics(&self) -> String {
        self.get("/metrics")
    }

    /// The value of a metric without labels, or the sum over its labels.
    pub fn metric(&self, name: &str) -> u64 {
        admin::metric(&self.metrics(), name)
    }

    pub fn is_ready(&self) -> bool {
        admin::is_ready(&self.get("/readyz"))
    }

    /// What it occupies while it does nothing. Its own connection to buildkitd is a part of that.
    pub fn footprint(&self) -> Footprint {
        eventually("remora is ready", READY_LIMIT, || self.is_ready().then_some(()));
        self.occupied()
    }

    /// What it occupies now.
    pub fn occupied(&self) -> Footprint {
        let daemon = self.daemon.as_ref().expect("it runs");
        Footprint::of(daemon.pid(), &self.data_dir().join("spool"), self.metric("remora_tasks "))
    }

    /// The connections that are open at its endpoints.
    pub fn connections(&self) -> Connections {
        Connections::at(self.s3_port, &self.control_socket())
    }

    /// Waits until nothing is left of what came after `before`.
    pub fn returns_to(&self, before: &Footprint) {
        let started = Instant::now();
        let mut now = self.occupied();
        while !now.is_no_more_than(before) {
            assert!(started.elapsed() < READY_LIMIT, "left behind:\n{now:#?}\nbefore: {before:#?}");
            now = self.occupied();
        }
    }

    /// The output of `remora check-config` with the same configuration.
    pub fn check_config(&self) -> Finished {
        run(self.command("check-config"))
    }

    /// The program on its configuration and files.
    fn command(&self, subcommand: &str) -> std::process::Command {
        let mut command = program();
        command.arg(subcommand).arg("--config").arg(self.dir.path().join("remora.toml"));
        command.arg("--data-dir").arg(self.data_dir());
        command.envs(self.settings.env.iter().cloned());
        command
    }

    pub fn control_socket(&self) -> PathBuf {
        self.dir.path().join("control.sock")
    }

    fn data_dir(&self) -> PathBuf {
        self.settings.data_dir.clone().unwrap_or_else(|| self.dir.path().join("data"))
    }

    /// The answer of the admin endpoint, headers included; empty while nobody answers.
    pub fn get(&self, path: &str) -> String {
        admin::get(TcpStream::connect(("127.0.0.1", self.admin_port)), path)
    }
}

impl Drop for Remora {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("remora logged:\n{}", self.log());
        }
    }
}

/// remora with its environment: the store's secret, and nothing else of AWS.
fn program() -> std::process::Command {
    let mut command = leashed(env!("CARGO_BIN_EXE_remora"));
    command.env(SECRET_VARIABLE, minio::SECRET_ACCESS_KEY).env("AWS_EC2_METADATA_DISABLED", "true");
    command.env_remove("AWS_ACCESS_KEY_ID").env_remove("AWS_SECRET_ACCESS_KEY").env_remove("AWS_SESSION_TOKEN");
    command
}
