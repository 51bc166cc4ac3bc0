//! `make bench`: whole builds with real buildkitd and MinIO, through remora and without it, in turn in one run.
//!
//! Prints tables on standard output and progress on standard error, and writes `target/bench/builds.json`.
//! docs/performance.md says how to read them.
#![allow(clippy::disallowed_methods, reason = "a synchronous program: no worker to block, and no configuration but its own")]
#![allow(clippy::cast_precision_loss, reason = "bytes and counts far below 2^53")]

mod blob_reads;
mod buildctl;
mod clients;
mod content_streams;
mod daemons;
mod discarding_server;
mod figures;
mod host_facts;
mod hot_name;
mod processes;
mod report;
mod route;
mod runner;
mod sample;
mod shaper;
mod stage;
mod timed_build;
mod workloads;

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use clap::Parser;

use crate::host_facts::Machine;
use crate::report::{Report, Row, ratio, verdicts};
use crate::runner::Runner;
use crate::workloads::{CONTESTANTS, Contestant, RUNS, TRANSFERS, WORKLOADS, Workload};

/// `--quick` makes layers a quarter of their size.
const QUICK_FACTOR: f64 = 0.25;
const QUICK_CONTESTANTS: [&str; 4] = ["native plain", "native shaped", "relay plain", "relay shaped"];
const QUICK_RUNS: usize = 3;
/// `--quick` fails when remora takes so many times as long as native, with nothing between, and does so
/// again when the two are alone and have more rounds: no noise explains that.
const QUICK_LIMIT: f64 = 1.5;
const SUSPECTS: [&str; 2] = ["relay plain", "native plain"];
const SECOND_LOOK_RUNS: usize = 7;

/// What `--only` calls the reading of one blob.
const BLOBS: &str = "blobs";
/// What `--only` calls the reading and writing of streams.
const STREAMS: &str = "streams";

/// Times whole builds through remora and without it.
#[derive(Debug, Parser)]
struct Arguments {
    /// Only workloads whose name contains this; may repeat
    #[arg(long, value_name = "TEXT")]
    only: Vec<String>,
    /// Only these contestants
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    contestants: Vec<String>,
    /// Builds of each contestant in each workload [default: 5; 15 of a hot name]
    #[arg(long, value_name = "N")]
    runs: Option<usize>,
    /// Multiplies the sizes of layers and contexts, and the exports of a hot name [default: 1]
    #[arg(long, value_name = "FACTOR")]
    size_factor: Option<f64>,
    /// About two minutes; fails when remora is far slower than native
    #[arg(long)]
    quick: bool,
    /// Where builders and stores keep their data; its content is deleted. Needs about 12 GiB [default: target/bench/work]
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Another remora than the one that cargo has built
    #[arg(long, value_name = "FILE", default_value = env!("CARGO_BIN_EXE_remora"), hide_default_value = true)]
    remora: PathBuf,
    /// cargo bench adds this
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let output = Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("bench");
    let dir = arguments.dir.clone().unwrap_or_else(|| output.join("work"));
    let mut rows = Vec::new();
    let mut runner = Runner::start(&dir, &arguments.remora)?;
    let workloads = arguments.workloads()?;
    for workload in &workloads {
        rows.extend(compete(
            &mut runner,
            &arguments,
            workload,
            &arguments.contestants(workload)?,
            arguments.rounds(workload.work.rounds()),
        )?);
    }
    let mut failures = errors(&rows);
    if arguments.quick {
        for workload in workloads {
            failures.extend(regression(&mut runner, &arguments, workload, &rows)?);
        }
    }
    let factor = arguments.factor();
    let rounds = arguments.rounds(RUNS);
    let blobs = arguments.wants(BLOBS).then(|| runner.blobs(factor, rounds)).and_then(|found| kept(BLOBS, found, &mut failures));
    let streams = arguments.wants(STREAMS).then(|| runner.streams(factor, rounds)).and_then(|found| kept(STREAMS, found, &mut failures));
    let hot_name = runner.hot_facts.take();
    drop(runner);
    daemons::remove(&dir)?;

    let report = Report {
        machine: Machine::look(&arguments.remora),
        command: format!("cargo bench --bench builds -- {}", std::env::args().skip(1).collect::<Vec<_>>().join(" ")),
        size_factor: arguments.factor(),
        goals: verdicts(&rows),
        rows,
        hot_name,
        blobs,
        streams,
    };
    std::fs::create_dir_all(&output)?;
    std::fs::write(output.join("builds.json"), serde_json::to_vec_pretty(&report)?)?;
    let mut stdout = std::io::stdout().lock();
    write!(stdout, "{}", report.text()?)?;
    for failure in &failures {
        writeln!(stdout, "{failure}")?;
    }
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Returns what was measured. If that failed, adds a line to the failures instead.
fn kept<T>(name: &str, found: Result<T>, failures: &mut Vec<String>) -> Option<T> {
    found.map_err(|error| failures.push(format!("{name}: {error:#}"))).ok()
}

/// Runs one workload: all contestants take turns, and each round begins with another one.
fn compete(
    runner: &mut Runner,
    arguments: &Arguments,
    workload: &'static Workload,
    contestants: &[&'static Contestant],
    rounds: usize,
) -> Result<Vec<Row>> {
    let work = workload.work.scaled(arguments.factor());
    let row = |contestant: &&Contestant| Row { workload: workload.name, contestant: contestant.name, samples: Vec::new(), error: None };
    let mut rows: Vec<Row> = contestants.iter().map(row).collect();
    if rows.is_empty() {
        return Ok(rows);
    }
    let mut stderr = std::io::stderr();
    writeln!(stderr, "{}: preparing", workload.name)?;
    if let Err(error) = runner.prepare(work) {
        writeln!(stderr, "{error:#}")?;
        rows.iter_mut().for_each(|row| row.error = Some(format!("preparing: {error:#}")));
    }
    for round in 0..rounds {
        for turn in 0..contestants.len() {
            let index = (round + turn) % contestants.len();
            let contestant = contestants[index];
            let row = &mut rows[index];
            if row.error.is_some() {
                continue;
            }
            write!(stderr, "{}: {}: ", workload.name, contestant.name)?;
            match runner.run(workload, work, contestant) {
                Ok(sample) => {
                    writeln!(stderr, "{:.2} s", sample.wall_seconds)?;
                    row.samples.push(sample);
                }
                Err(error) => {
                    writeln!(stderr, "{error:#}")?;
                    row.error = Some(format!("{error:#}"));
                }
            }
        }
    }
    Ok(rows)
}

/// A line for each run that failed.
fn errors(rows: &[Row]) -> Vec<String> {
    rows.iter().filter_map(|row| Some(format!("{}: {}: {}", row.workload, row.contestant, row.error.as_ref()?))).collect()
}

/// Looks a second time at a workload in which remora seems to be far slower than native.
fn regression(runner: &mut Runner, arguments: &Arguments, workload: &'static Workload, rows: &[Row]) -> Result<Vec<String>> {
    let [ours, theirs] = SUSPECTS;
    let excess = |rows: &[Row]| ratio(rows, workload.name, ours, theirs, None).filter(|ratio| *ratio > QUICK_LIMIT);
    if !TRANSFERS.contains(&workload.name) || excess(rows).is_none() {
        return Ok(Vec::new());
    }
    let suspects: Vec<_> = CONTESTANTS.iter().filter(|contestant| SUSPECTS.contains(&contestant.name)).collect();
    let rows = compete(runner, arguments, workload, &suspects, SECOND_LOOK_RUNS)?;
    let again = excess(&rows).map(|ratio| format!("{}: {ours} takes {ratio:.2} times as long as {theirs}", workload.name));
    Ok(errors(&rows).into_iter().chain(again).collect())
}

impl Arguments {
    fn workloads(&self) -> Result<Vec<&'static Workload>> {
        let asked = |workload: &&Workload| self.only.is_empty() || self.only.iter().any(|text| workload.name.contains(text.as_str()));
        let found: Vec<_> = WORKLOADS.iter().filter(asked).filter(|workload| workload.quick || !self.quick).collect();
        ensure!(!found.is_empty() || self.wants(BLOBS) || self.wants(STREAMS), "--only {:?}: no workload is called so", self.only);
        Ok(found)
    }

    /// Whether this measurement, which has no builds, is wanted too.
    fn wants(&self, name: &str) -> bool {
        !self.quick && (self.only.is_empty() || self.only.iter().any(|text| name.contains(text.as_str())))
    }

    fn contestants(&self, workload: &Workload) -> Result<Vec<&'static Contestant>> {
        let names: Vec<&str> = match (self.contestants.is_empty(), self.quick) {
            (false, _) => self.contestants.iter().map(String::as_str).collect(),
            (true, true) => QUICK_CONTESTANTS.to_vec(),
            (true, false) => workload.contestants.to_vec(),
        };
        let find = |name: &str| CONTESTANTS.iter().find(|contestant| contestant.name == name);
        let known: Vec<_> =
            names.into_iter().map(|name| find(name).with_context(|| format!("--contestants {name}: unknown"))).collect::<Result<_>>()?;
        Ok(known.into_iter().filter(|contestant| workload.contestants.contains(&contestant.name)).collect())
    }

    fn rounds(&self, usual: usize) -> usize {
        self.runs.unwrap_or(if self.quick { QUICK_RUNS } else { usual })
    }

    fn factor(&self) -> f64 {
        self.size_factor.unwrap_or(if self.quick { QUICK_FACTOR } else { 1.0 })
    }
}
