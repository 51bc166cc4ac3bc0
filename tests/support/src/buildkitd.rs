//! A real buildkitd on a Unix socket.

use std::path::{Path, PathBuf};

use super::process::{READY_LIMIT, Running, eventually, files_below, isolated, leashed, run};
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

    /// A buildkitd that does not run yet.
    pub fn later() -> Self {
        Self { dir: tempfile::tempdir().expect("temp dir"), daemon: None, earlier: String::new() }
    }

    /// Where it listens.
    pub fn address(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Starts it and waits until it answers.
    pub fn boot(&mut self) {
        let mut command = isolated(tool("buildkitd"));
        command
            .args(["--debug", "--oci-worker=true", "--oci-worker-net=host", "--oci-worker-snapshotter=overlayfs"])
            .arg("--containerd-worker=false")
            .arg("--root")
            .arg(self.root())
            .args(["--addr", &self.address()])
            // Its default is one path for all of a machine, and the second to bind it dies.
            .arg("--otel-socket-path")
            .arg(self.dir.path().join("otel.sock"))
            // Nothing may come from the environment but what a test puts there.
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("HOME", self.dir.path())
            .env_remove("AWS_ACCESS_KEY_ID")
            .env_remove("AWS_SECRET_ACCESS_KEY");
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
    pub fn buildctl(&self, args: &[&str]) -> super::process::Finished {
        let mut command = leashed(tool("buildctl"));
        command.args(["--addr", &self.address()]).args(args);
        run(command)
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
        self.dir.path().join("buildkitd.sock")
    }

    fn root(&self) -> PathBuf {
        self.dir.path().join("root")
    }
}

fn contains(file: &Path, text: &str) -> bool {
    std::fs::read(file).is_ok_and(|bytes| bytes.windows(text.len()).any(|window| window == text.as_bytes()))
}
