//! buildkitd and remora, each in a folder of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use remora_test_support::buildkitd;
use remora_test_support::http;
use remora_test_support::minio::{ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY};
use remora_test_support::ports::free_port;
use remora_test_support::tools::tool;

use crate::processes::{Daemon, leashed, undisturbed};

/// Where remora finds the secret key of the store.
const SECRET_VARIABLE: &str = "BENCH_SECRET_ACCESS_KEY";
/// The pause between two looks at whether a daemon is ready.
const PAUSE: Duration = Duration::from_millis(20);

#[derive(Debug)]
pub(crate) struct Buildkitd {
    pub(crate) daemon: Daemon,
    dir: PathBuf,
}

impl Buildkitd {
    /// Starts one with an empty root. Dropping it deletes all that it has.
    pub(crate) fn start(dir: &Path) -> Result<Self> {
        remove(dir)?;
        fs::create_dir_all(dir)?;
        let command = undisturbed(buildkitd::command(dir));
        let mut daemon = Daemon::start(command, &dir.join("log"))?;
        daemon.wait_for("buildkitd", PAUSE, || {
            let mut workers = leashed(tool("buildctl"));
            let output = workers.args(["--addr", &buildkitd::address(dir), "debug", "workers"]).output().ok()?;
            output.status.success().then_some(())
        })?;
        daemon.follow_fork()?;
        Ok(Self { daemon, dir: dir.to_path_buf() })
    }

    pub(crate) fn address(&self) -> String {
        buildkitd::address(&self.dir)
    }
}

impl Drop for Buildkitd {
    fn drop(&mut self) {
        self.daemon.end();
        let _ = remove(&self.dir);
    }
}

/// What differs from one remora to the next.
#[derive(Debug)]
pub(crate) struct Settings<'a> {
    /// The remora binary.
    pub(crate) program: &'a Path,
    pub(crate) buildkitd: &'a str,
    pub(crate) transport: &'a str,
    pub(crate) store: Stored<'a>,
    /// The beginning of its configuration file.
    pub(crate) configuration: &'a str,
}

/// Where a remora has its store.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Stored<'a> {
    /// In a bucket of the S3 server at `endpoint`.
    S3 { endpoint: SocketAddr, bucket: &'a str },
    /// In its data folder.
    Directory,
}

#[derive(Debug)]
pub(crate) struct Remora {
    pub(crate) daemon: Daemon,
    dir: PathBuf,
    /// The address of the s3 endpoint.
    pub(crate) s3: SocketAddr,
    /// The address of the content endpoint.
    pub(crate) content: SocketAddr,
    /// From the start of the process to the first good answer of `/readyz`.
    pub(crate) ready_after: Duration,
}

impl Remora {
    /// Starts one with an empty data folder. Dropping it deletes all that it has.
    pub(crate) fn start(dir: &Path, settings: &Settings<'_>) -> Result<Self> {
        remove(dir)?;
        fs::create_dir_all(dir)?;
        let (s3, content, admin) = (free_address(), free_address(), free_address());
        let key = dir.join("key");
        fs::write(&key, SECRET_ACCESS_KEY)?;
        let tables = match settings.store {
            Stored::S3 { endpoint, bucket } => format!(
                "store = \"s3://{bucket}\"\n\
                 [[buckets]]\nname = \"{bucket}\"\nendpoint = \"http://{endpoint}\"\nregion = \"{REGION}\"\npath_style = true\n\
                 access_key_id = \"{ACCESS_KEY_ID}\"\nsecret_access_key_env = \"{SECRET_VARIABLE}\"\n\
                 [[s3.keys]]\naccess_key_id = \"{ACCESS_KEY_ID}\"\nsecret_access_key_file = \"{}\"\nbucket = \"{bucket}\"\nrights = [\"exists\", \"read\", \"write\"]\n",
                key.display()
            ),
            Stored::Directory => format!("store = \"file://{}\"\n", dir.join("store").display()),
        };
        let file = format!("{}\n{tables}", settings.configuration);
        fs::write(dir.join("remora.toml"), file)?;
        let mut command = leashed(settings.program);
        command.arg("serve").arg("--config").arg(dir.join("remora.toml")).arg("--data-dir").arg(dir.join("data"));
        command.args(["--buildkitd", settings.buildkitd, "--transport", settings.transport, "--control", &control(dir)]);
        command.args(["--s3", &format!("tcp://{s3}"), "--s3-advertise", &format!("http://{s3}")]);
        command.args(["--content", &format!("tcp://{content}"), "--admin", &format!("tcp://{admin}")]);
        command.env(SECRET_VARIABLE, SECRET_ACCESS_KEY).env("HOME", dir);
        let started = Instant::now();
        let mut daemon = Daemon::start(command, &dir.join("log"))?;
        let pause = Duration::from_millis(1);
        daemon.wait_for("remora", pause, || http::get(TcpStream::connect(admin), "/readyz").starts_with("HTTP/1.1 200").then_some(()))?;
        Ok(Self { daemon, dir: dir.to_path_buf(), s3, content, ready_after: started.elapsed() })
    }

    /// The address of the control endpoint.
    pub(crate) fn address(&self) -> String {
        control(&self.dir)
    }
}

impl Drop for Remora {
    fn drop(&mut self) {
        self.daemon.end();
        let _ = remove(&self.dir);
    }
}

fn control(dir: &Path) -> String {
    format!("unix://{}", dir.join("control.sock").display())
}

fn free_address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()))
}

/// Deletes a folder that may not be there.
pub(crate) fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("cannot remove {}", dir.display()))
        }
        _ => Ok(()),
    }
}

/// How many files there are below a folder, and their bytes.
pub(crate) fn files_below(dir: &Path) -> Result<(u64, u64)> {
    let mut files = 0;
    let mut bytes = 0;
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        let (inner_files, inner_bytes) =
            if entry.file_type()?.is_dir() { files_below(&entry.path())? } else { (1, entry.metadata()?.len()) };
        files += inner_files;
        bytes += inner_bytes;
    }
    Ok((files, bytes))
}
