//! The build clients: real buildctl and buildx, and what they say about a build.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use serde::Deserialize;

use super::process::{Finished, Running, leashed, run};
use super::tools::tool;

/// One build to ask for.
#[derive(Debug, Clone, Default)]
pub struct Build {
    pub context: PathBuf,
    /// `type=…` of `--export-cache` (buildctl) or `--cache-to` (buildx).
    pub cache_to: Vec<String>,
    /// `type=…` of `--import-cache` (buildctl) or `--cache-from` (buildx).
    pub cache_from: Vec<String>,
    /// Where the image goes, as an OCI tar.
    pub image: Option<PathBuf>,
    /// Where the client writes what it learned of the build.
    pub metadata: Option<PathBuf>,
    /// The stage to build.
    pub target: Option<&'static str>,
    /// Show what the steps print, in place of the machine-readable progress: no steps are known then.
    pub plain: bool,
    /// More arguments and variables of the client.
    pub args: Vec<String>,
    pub env: Vec<(&'static str, String)>,
}

impl Build {
    pub fn of(context: &Path) -> Self {
        Self { context: context.to_path_buf(), ..Self::default() }
    }

    /// The same build with the cache of `attrs` imported and exported.
    pub fn cached(mut self, attrs: &str) -> Self {
        self.cache_to.push(format!("{attrs},mode=max"));
        self.cache_from.push(attrs.to_owned());
        self
    }

    pub fn image(mut self, tar: &Path) -> Self {
        self.image = Some(tar.to_path_buf());
        self
    }
}

/// One step of a Dockerfile.
#[derive(Debug, Clone, Default)]
pub struct Step {
    pub cached: bool,
    pub error: Option<String>,
}

/// How a build went.
#[derive(Debug)]
pub struct Outcome {
    pub status: ExitStatus,
    /// What the client printed beside the machine-readable progress.
    pub text: String,
    /// Steps of the Dockerfile by their names.
    pub steps: BTreeMap<String, Step>,
    /// What BuildKit does around them (imports, exports, the context), with errors.
    pub around: BTreeMap<String, Step>,
}

impl Outcome {
    /// Fails the test unless the build passed.
    pub fn expect_success(self) -> Self {
        assert!(self.status.success(), "{self:#?}");
        self
    }

    /// Fails the test unless the build failed.
    pub fn expect_failure(self) -> Self {
        assert!(!self.status.success(), "{self:#?}");
        self
    }

    /// Fails the test unless every step came from the cache.
    pub fn assert_cached(&self) {
        assert!(!self.steps.is_empty() && self.steps.values().all(|step| step.cached), "{self:#?}");
    }

    /// Fails the test unless every step was executed.
    pub fn assert_executed(&self) {
        assert!(!self.steps.is_empty() && self.steps.values().all(|step| !step.cached), "{self:#?}");
    }

    /// The errors of what BuildKit does around the steps.
    pub fn errors_around(&self) -> String {
        self.around.iter().filter_map(|(name, step)| Some(format!("{name}: {}\n", step.error.as_ref()?))).collect()
    }

    fn parse(finished: &Finished) -> Self {
        let (mut vertexes, mut text) = (BTreeMap::<String, (String, Step)>::new(), String::new());
        for line in finished.stderr.lines() {
            match serde_json::from_str::<Progress>(line) {
                Ok(progress) => progress.vertexes.into_iter().for_each(|vertex| {
                    if vertex.name.starts_with(AGAIN) && !vertexes.contains_key(&vertex.digest) {
                        // What counts is where the second run has its steps from; the first may have got that far too.
                        vertexes.values_mut().for_each(|(_, step)| step.cached = false);
                    }
                    let (name, step) = vertexes.entry(vertex.digest).or_default();
                    *name = vertex.name;
                    step.cached |= vertex.cached;
                    step.error = step.error.take().or(vertex.error);
                }),
                Err(_) => text += &format!("{line}\n"),
            }
        }
        // bake puts the target before the rest: `[app base 1/2] RUN`, `[app internal]`, `[app] exporting`.
        let is_step = |(name, _): &(String, Step)| {
            let place = name.strip_prefix('[').and_then(|rest| rest.split(']').next()).unwrap_or_default();
            place.contains('/') || place.ends_with(|last: char| last.is_ascii_digit())
        };
        let (steps, around): (Vec<_>, Vec<_>) = vertexes.into_values().partition(is_step);
        Self { status: finished.status, text, steps: steps.into_iter().collect(), around: around.into_iter().collect() }
    }
}

/// What the progress says when a build is run again.
pub const AGAIN: &str = "[remora] layers of the imported cache are gone";

/// A line of `--progress=rawjson`: the changes of some vertexes.
#[derive(Deserialize)]
struct Progress {
    #[serde(default)]
    vertexes: Vec<Vertex>,
}

#[derive(Deserialize)]
struct Vertex {
    digest: String,
    name: String,
    #[serde(default)]
    cached: bool,
    error: Option<String>,
}

/// A build client that talks to one builder.
#[derive(Debug)]
pub struct Client {
    home: tempfile::TempDir,
    builder: Builder,
}

#[derive(Debug)]
enum Builder {
    /// buildctl, with the address of the API.
    Buildctl(String),
    /// buildx, with the name of its builder, and the Docker Engine where one is needed.
    Buildx { name: &'static str, docker_host: Option<String> },
}

impl Client {
    pub fn buildctl(address: &str) -> Self {
        Self { home: tempfile::tempdir().expect("temp dir"), builder: Builder::Buildctl(address.to_owned()) }
    }

    /// The address that buildctl asks.
    pub fn address(&self) -> &str {
        match &self.builder {
            Builder::Buildctl(address) => address,
            Builder::Buildx { name, .. } => name,
        }
    }

    /// buildx with a builder of the `remote` driver.
    pub fn buildx_remote(address: &str) -> Self {
        let client = Self::buildx("remote", None);
        let mut create = client.command();
        create.args(["create", "--name", "remote", "--driver", "remote", address]);
        run(create).expect_success();
        client
    }

    /// buildx with a builder that is yet to be created.
    pub fn buildx(name: &'static str, docker_host: Option<String>) -> Self {
        Self { home: tempfile::tempdir().expect("temp dir"), builder: Builder::Buildx { name, docker_host } }
    }

    /// The client with no arguments but those that name the builder, and with no credentials around.
    pub fn command(&self) -> Command {
        let mut command = match &self.builder {
            Builder::Buildctl(address) => {
                let mut command = leashed(tool("buildctl"));
                command.args(["--addr", address]);
                command
            }
            Builder::Buildx { docker_host, .. } => {
                let mut command = leashed(tool("buildx"));
                command.env_remove("DOCKER_HOST").envs(docker_host.iter().map(|host| ("DOCKER_HOST", host)));
                command
            }
        };
        let home = self.home.path();
        command.env("HOME", home).env("BUILDX_CONFIG", home).env("DOCKER_CONFIG", home);
        command.env("AWS_EC2_METADATA_DISABLED", "true");
        for variable in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "BUILDX_BUILDER"] {
            command.env_remove(variable);
        }
        command
    }

    /// Builds, and waits for the end.
    pub fn build(&self, build: &Build) -> Outcome {
        self.outcome(self.start(build))
    }

    /// Waits for the end of a build that was started.
    pub fn outcome(&self, build: Running) -> Outcome {
        Outcome::parse(&build.finish())
    }

    /// Builds all targets of a bake file in the background. Only buildx can.
    pub fn start_bake(&self, file: &Path) -> Running {
        let mut command = self.command();
        let Builder::Buildx { name, .. } = &self.builder else { unreachable!("buildctl has no bake") };
        command.args(["bake", "--builder", name, "--progress=rawjson", "--allow=fs.read=*", "--file"]).arg(file);
        Running::start(command)
    }

    /// As [`Self::outcome`]; `None` for a build that hangs.
    pub fn outcome_within(&self, build: Running, limit: Duration) -> Option<Outcome> {
        build.end_within(limit).ok().map(|finished| Outcome::parse(&finished))
    }

    /// Builds in the background.
    pub fn start(&self, build: &Build) -> Running {
        let mut command = self.command();
        let context = build.context.display();
        let (cache_to, cache_from) = match &self.builder {
            Builder::Buildctl(_) => {
                command.args(["build", "--frontend", "dockerfile.v0"]);
                command.args(["--local", &format!("context={context}"), "--local", &format!("dockerfile={context}")]);
                command.args(build.target.map(|target| format!("--opt=target={target}")));
                ("--export-cache", "--import-cache")
            }
            Builder::Buildx { name, .. } => {
                command.args(["build", "--builder", name]).arg(&build.context);
                command.args(build.target.map(|target| format!("--target={target}")));
                ("--cache-to", "--cache-from")
            }
        };
        command.arg(if build.plain { "--progress=plain" } else { "--progress=rawjson" });
        command.args(build.cache_to.iter().flat_map(|attrs| [cache_to, attrs]));
        command.args(build.cache_from.iter().flat_map(|attrs| [cache_from, attrs]));
        command.args(build.image.iter().flat_map(|tar| ["--output".to_owned(), format!("type=oci,dest={}", tar.display())]));
        command.args(build.metadata.iter().flat_map(|file| ["--metadata-file".to_owned(), file.display().to_string()]));
        command.args(&build.args).envs(build.env.iter().cloned());
        Running::start(command)
    }
}
