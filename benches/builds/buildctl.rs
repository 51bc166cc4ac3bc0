//! One `buildctl build`: its files, its arguments, and what it says about its steps.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use remora_test_support::tools::tool;
use serde_json::Value;

use crate::processes::{last_line, leashed};
use crate::workloads::Layers;

/// What the name of a step that makes a layer contains.
const LAYER_STEP: &str = "/dev/urandom";
/// The value of `NONCE` that the seed was built with.
pub(crate) const SEED: &str = "seed";

/// One build to do.
#[derive(Debug)]
pub(crate) struct Build<'a> {
    /// The address of the API: buildkitd's, or remora's control endpoint.
    pub(crate) address: &'a str,
    pub(crate) context: &'a Path,
    /// Any other value makes the last steps new, so that they run and need the layers below them.
    pub(crate) nonce: &'a str,
    pub(crate) cache_to: Vec<String>,
    pub(crate) cache_from: Vec<String>,
}

/// How it went.
#[derive(Debug)]
pub(crate) struct Built {
    pub(crate) wall: Duration,
    /// Steps that make layers, and how many of them came from a cache.
    pub(crate) layer_steps: usize,
    pub(crate) cached: usize,
    /// Whether BuildKit says that it exported a cache.
    pub(crate) exported: bool,
}

impl Build<'_> {
    pub(crate) fn run(&self, progress: &Path) -> Result<Built> {
        let mut command = leashed(tool("buildctl"));
        command.args(["--addr", self.address, "build", "--frontend", "dockerfile.v0", "--progress", "rawjson"]);
        for local in ["context", "dockerfile"] {
            command.args(["--local", &format!("{local}={}", self.context.display())]);
        }
        command.args(["--opt", &format!("build-arg:NONCE={}", self.nonce)]);
        command.args(self.cache_to.iter().flat_map(|attrs| ["--export-cache", attrs]));
        command.args(self.cache_from.iter().flat_map(|attrs| ["--import-cache", attrs]));
        let output = File::create(progress)?;
        command.stdout(output.try_clone()?).stderr(output);
        let started = Instant::now();
        let status = command.status()?;
        let wall = started.elapsed();
        let text = fs::read_to_string(progress)?;
        ensure!(status.success(), "buildctl ended with {status}: {}", last_line(&text));
        let layers = vertexes(&text, |name| name.contains(LAYER_STEP));
        let exported = !vertexes(&text, |name| name.starts_with("exporting cache")).is_empty();
        Ok(Built { wall, layer_steps: layers.len(), cached: layers.values().filter(|cached| **cached).count(), exported })
    }
}

/// The vertexes with such names, by digest, and whether each came from a cache.
fn vertexes(progress: &str, is_meant: impl Fn(&str) -> bool) -> BTreeMap<String, bool> {
    let mut found = BTreeMap::new();
    for status in progress.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        for vertex in status["vertexes"].as_array().into_iter().flatten() {
            if vertex["name"].as_str().is_some_and(&is_meant) {
                *found.entry(vertex["digest"].to_string()).or_default() |= vertex["cached"] == Value::Bool(true);
            }
        }
    }
    found
}

/// Makes the context of a build with these layers. Its steps depend on the Dockerfile alone, so a builder that holds
/// nothing knows them by name, and no file as large as a layer goes from the client to the builder.
pub(crate) fn layers_context(dir: &Path, layers: Layers) -> Result<PathBuf> {
    let context = dir.join("context");
    fs::create_dir_all(&context)?;
    fs::copy(tool("busybox"), context.join("busybox")).context("busybox")?;
    let mut file = "FROM scratch AS base\nCOPY busybox /bin/busybox\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n".to_owned();
    let mut last = "FROM base\n".to_owned();
    for chain in 0..layers.chains {
        writeln!(file, "FROM base AS chain{chain}")?;
        for layer in 0..layers.length {
            writeln!(file, "RUN busybox head -c {} {LAYER_STEP} >/{chain}-{layer}", layers.bytes)?;
        }
        // A mount needs the whole chain, and does not hash its content, as a COPY from it would.
        writeln!(file, "FROM chain{chain} AS end{chain}\nARG NONCE\nRUN echo \"$NONCE\" >/end")?;
        writeln!(last, "COPY --from=end{chain} /end /end{chain}")?;
    }
    fs::write(context.join("Dockerfile"), file + &last)?;
    Ok(context)
}

/// Makes a context of random bytes, in files of at most 16 MiB, and a build that copies it.
pub(crate) fn files_context(dir: &Path, bytes: u64) -> Result<PathBuf> {
    const FILE: u64 = 16 << 20;
    let context = dir.join("context");
    fs::create_dir_all(context.join("files"))?;
    let mut random = File::open("/dev/urandom")?;
    for number in 0..bytes.div_ceil(FILE) {
        let length = FILE.min(bytes - number * FILE);
        std::io::copy(&mut random.by_ref().take(length), &mut File::create(context.join(format!("files/{number}")))?)?;
    }
    fs::write(context.join("Dockerfile"), "FROM scratch\nARG NONCE\nCOPY files /\n")?;
    Ok(context)
}
