//! `remora verify`: whether every blob that the caches name exists and has the right size and digest.
//!
//! Each blob is read once and whole, even if several manifests name it.

use std::collections::BTreeMap;
use std::io::Write;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use super::failure::Failure;
use super::output::{count, print_json, size};
use super::scope::{Opened, ScopeArgs, parse_name};
use crate::cache::{CacheConfig, Error};
use crate::types::{Digest, Hasher, ManifestName};

/// Blobs that are read at once.
const READS_AT_ONCE: usize = 4;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The caches' names; none for all of them
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    pub(super) scope: ScopeArgs,
    /// Print one JSON object
    #[arg(long, env = "REMORA_JSON", hide_env_values = true)]
    json: bool,
}

#[derive(Serialize)]
struct Verified {
    manifests: usize,
    /// Blobs, each once.
    blobs: usize,
    /// Bytes that were read.
    bytes: u64,
    problems: Vec<Problem>,
}

#[derive(Serialize)]
struct Problem {
    manifest: String,
    /// `None`: the manifest itself.
    blob: Option<String>,
    problem: String,
}

/// What manifests claim about one blob: which manifest names it, and with which size. The size 0 stands for any size.
type Claims = Vec<(ManifestName, u64)>;

/// What a blob turned out to be.
enum Finding {
    Missing,
    Sized(u64),
    Hashed { size: u64, actual: Digest },
}

pub(super) async fn run(args: Args, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
    let mut names = args.names.iter().map(|name| parse_name(name)).collect::<Result<Vec<_>, _>>()?;
    let opened = args.scope.open().await?;
    if names.is_empty() {
        names = opened.manifests().await?.into_iter().map(|info| info.name).collect();
    }
    let mut verified = Verified { manifests: names.len(), blobs: 0, bytes: 0, problems: Vec::new() };
    let blobs = collect_claims(&opened, names, &mut verified.problems).await?;
    verified.blobs = blobs.len();

    let progress = progress(blobs.values().filter_map(|claims| Some(claims.first()?.1)).sum());
    let checks: Vec<_> = blobs.into_iter().map(|(digest, claims)| check(&opened, digest, claims, &progress)).collect();
    let mut checks = stream::iter(checks).buffered(READS_AT_ONCE);
    while let Some((digest, claims, finding)) = checks.try_next().await? {
        if let Finding::Hashed { size, .. } = finding {
            verified.bytes += size;
        }
        verified.problems.extend(judge(digest, claims, &finding));
    }
    progress.finish_and_clear();
    report(&verified, args.json, out)
}

async fn collect_claims(
    opened: &Opened,
    names: Vec<ManifestName>,
    problems: &mut Vec<Problem>,
) -> Result<BTreeMap<Digest, Claims>, Failure> {
    let mut blobs: BTreeMap<Digest, Claims> = BTreeMap::new();
    for name in names {
        match opened.cache.manifests().get(&opened.grant, &name).await {
            Ok(manifest) => {
                for (digest, size) in CacheConfig::blobs(&manifest.config) {
                    blobs.entry(digest).or_default().push((name.clone(), size));
                }
            }
            Err(error @ (Error::NotFound(_) | Error::Corrupt(_) | Error::Exhausted(_))) => {
                problems.push(Problem { manifest: name.to_string(), blob: None, problem: error.to_string() });
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(blobs)
}

async fn check(opened: &Opened, digest: Digest, claims: Claims, progress: &ProgressBar) -> Result<(Digest, Claims, Finding), Error> {
    let finding = inspect(opened, &digest, &claims, progress).await?;
    Ok((digest, claims, finding))
}

async fn inspect(opened: &Opened, digest: &Digest, claims: &Claims, progress: &ProgressBar) -> Result<Finding, Error> {
    let mut read = match opened.cache.blobs().read_stored(&opened.grant, digest).await {
        Ok(read) => read,
        Err(Error::NotFound(_)) => return Ok(Finding::Missing),
        Err(error) => return Err(error),
    };
    let stored = read.info.size;
    if claims.iter().all(|(_, size)| *size != 0 && *size != stored) {
        return Ok(Finding::Sized(stored));
    }
    let mut hasher = Hasher::default();
    while let Some(chunk) = read.body.try_next().await? {
        progress.inc(chunk.len() as u64);
        hasher.update(&chunk);
    }
    Ok(Finding::Hashed { size: stored, actual: hasher.finish().digest })
}

/// The problems that a finding is to the manifests that name the blob.
fn judge(digest: Digest, claims: Claims, finding: &Finding) -> Vec<Problem> {
    let problem = |claimed: u64| match finding {
        Finding::Missing => Some("missing".to_owned()),
        Finding::Sized(size) | Finding::Hashed { size, .. } if claimed != 0 && claimed != *size => {
            Some(format!("wrong size: {size} bytes are stored, the manifest says {claimed}"))
        }
        Finding::Hashed { actual, .. } if *actual != digest => Some(format!("wrong digest: the stored bytes have {actual}")),
        Finding::Sized(_) | Finding::Hashed { .. } => None,
    };
    let each = |(name, claimed): (ManifestName, u64)| {
        Some(Problem { manifest: name.to_string(), blob: Some(digest.to_string()), problem: problem(claimed)? })
    };
    claims.into_iter().filter_map(each).collect()
}

/// A progress bar on stderr. It is shown only where stderr is a terminal.
fn progress(bytes: u64) -> ProgressBar {
    let template = "{bar:40} {binary_bytes} of {binary_total_bytes}, {binary_bytes_per_sec}, {eta} left";
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(bytes).with_style(style)
}

fn report(verified: &Verified, json: bool, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
    if json {
        print_json(out, verified)?;
    } else {
        for problem in &verified.problems {
            match &problem.blob {
                Some(blob) => writeln!(out, "{}: blob {blob}: {}", problem.manifest, problem.problem)?,
                None => writeln!(out, "{}: {}", problem.manifest, problem.problem)?,
            }
        }
        let problems = if verified.problems.is_empty() { "no problems".to_owned() } else { count(verified.problems.len(), "problem") };
        let manifests = count(verified.manifests, "manifest");
        let blobs = count(verified.blobs, "blob");
        writeln!(out, "{manifests}, {blobs}, {} read: {problems}", size(verified.bytes))?;
    }
    if verified.problems.is_empty() { Ok(()) } else { Err(Failure::Said) }
}
