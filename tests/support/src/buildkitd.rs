//! A real buildkitd on a Unix socket.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::process::{Finished, READY_LIMIT, Running, eventually, files_below, isolated, leashed, run};
use super::tools::tool;

/// A buildkitd with a root of its own, its debug log kept.
#[derive(Debug)]
pub struct Buildkitd {
    dir: tempfile::TempDir,
    daemon: Option<Running>,
    /// The logs of earlier runs of this builder.
    earlier: String,
}

impl Buildkitd {
    /// Starts one with an empty root.
    pub fn start() -> Self {
        let mut buildkitd = Self::later();
        buildkitd.boot();
        buildkitd
    }

    /// As [`Self::start`], with all its files below `folder`.
    pub fn start_below(folder: &Path) -> Self {
        let mut buildkitd = Self::in_dir(tempfile::tempdir_in(folder).expect("temp dir"));
        buildkitd.boot();
        buildkitd
    }

    /// A buildkitd that does not run yet.
    pub fn later() -> Self {
        Self::in_dir(tempfile::tempdir().expect("temp dir"))
    }

    fn in_dir(dir: tempfile::TempDir) -> Self {
        Self { dir, daemon: None, earlier: String::new() }
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        address(self.dir.path())
    }

    /// Starts it and waits until it answers.
    pub fn boot(&mut self) {
        let mut command = command(self.dir.path());
        command.arg("--debug");
        let mut daemon = Running::start_isolated(command);
        eventually("buildkitd answers", READY_LIMIT, || {
            daemon.assert_running();
            self.buildctl(&["debug", "workers"]).status.success().then_some(())
        });
        self.daemon = Some(daemon);
    }

    /// Ends it at once; its root stays.
    pub fn stop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            self.earlier += &daemon.stderr();
            drop(daemon);
        }
        let _ = std::fs::remove_file(self.socket());
    }

    /// Makes it forget everything: a new, empty builder at the same address.
    pub fn wipe(&mut self) {
        self.stop();
        std::fs::remove_dir_all(self.root()).expect("the root can be deleted");
        self.boot();
    }

    /// Makes it forget what it has built, running on.
    pub fn prune(&self) {
        self.buildctl(&["prune", "--all"]).expect_success();
    }

    /// Its debug log, from the first start on.
    pub fn log(&self) -> String {
        let current = self.daemon.as_ref().map(Running::stderr).unwrap_or_default();
        format!("{}{current}", self.earlier)
    }

    /// `buildctl` straight at this buildkitd.
    pub fn buildctl(&self, args: &[&str]) -> Finished {
        buildctl(&self.address(), args)
    }

    /// Where `text` occurs in what it keeps on disk (history, content, metadata) or in its log.
    pub fn places_with(&self, text: &str) -> Vec<String> {
        let mut places: Vec<String> = files_below(&self.root())
            .into_iter()
            .filter(|file| contains(&self.root().join(file), text))
            .map(|file| file.display().to_string())
            .collect();
        if self.log().contains(text) {
            places.push("the log".to_owned());
        }
        places
    }

    fn socket(&self) -> PathBuf {
        socket(self.dir.path())
    }

    fn root(&self) -> PathBuf {
        root(self.dir.path())
    }
}

/// What starts a buildkitd with all its files in `dir`, in namespaces of its own.
pub fn command(dir: &Path) -> Command {
    let mut command = isolated(tool("buildkitd"));
    command
        .args(["--oci-worker=true", "--oci-worker-net=host", "--oci-worker-snapshotter=overlayfs", "--containerd-worker=false"])
        .arg("--root")
        .arg(root(dir))
        .args(["--addr", &address(dir)])
        // Its default is one path for all of a machine, and the second to bind it dies.
        .arg("--otel-socket-path")
        .arg(dir.join("otel.sock"))
        // Nothing may come from the environment but what a test puts there.
        .env("AWS_EC2_METADATA_DISABLED", "true")
        .env("HOME", dir)
        .env_remove("AWS_ACCESS_KEY_ID")
        .env_remove("AWS_SECRET_ACCESS_KEY");
    command
}

/// Where the buildkitd with its files in `dir` listens.
pub fn address(dir: &Path) -> String {
    format!("unix://{}", socket(dir).display())
}

/// `buildctl` at this address.
pub fn buildctl(address: &str, args: &[&str]) -> Finished {
    let mut command = leashed(tool("buildctl"));
    command.args(["--addr", address]).args(args);
    run(command)
}

fn socket(dir: &Path) -> PathBuf {
    dir.join("buildkitd.sock")
}

fn root(dir: &Path) -> PathBuf {
    dir.join("root")
}

fn contains(file: &Path, text: &str) -> bool {
    std::fs::read(file).is_ok_and(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}
