//! Runs a workload: makes its layers once, then runs the contestants one by one, and checks that each
//! really did the work.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

use crate::blob_reads::{self, Blobs};
use crate::buildctl::{Build, SEED, files_context, layers_context};
use crate::content_streams::{self, Streams};
use crate::daemons::{Buildkitd, files_below, remove};
use crate::hot_name::{self, Facts, Hot};
use crate::route::{Place, Route, native};
use crate::sample::Sample;
use crate::shaper::Network;
use crate::stage::Stage;
use crate::timed_build::{Task, cold, measure};
use crate::workloads::{Contestant, JOURNAL, Layers, RELAY, S3, Via, Work, Workload};

/// The bucket that native imports from. Native exported to it.
const NATIVE_SEED: &str = "seed-native";
/// The bucket that remora imports from. remora exported to it. The blobs are the same as native's; the manifest tells
/// which of them are as they were written, so that it need not hash them again.
const REMORA_SEED: &str = "seed-remora";
/// How long remora may take to bring an export from its journal to S3.
const JOURNAL_PATIENCE: Duration = Duration::from_secs(120);

/// A cache of certain layers, in S3 and as a folder, and a builder that holds them.
#[derive(Debug)]
struct Seed {
    layers: Layers,
    dir: PathBuf,
    context: PathBuf,
    builder: Buildkitd,
    /// How many files the bucket has, and how many bytes.
    in_bucket: (u64, u64),
    /// How many files the folder has, and how many bytes.
    in_folder: (u64, u64),
}

/// Runs one workload after the other.
#[derive(Debug)]
pub(crate) struct Runner {
    stage: Stage,
    seed: Option<Seed>,
    context: Option<(u64, PathBuf)>,
    hot: Option<Hot>,
    /// What is known of the last hot name.
    pub(crate) hot_facts: Option<Facts>,
    runs: u32,
}

impl Runner {
    pub(crate) fn start(dir: &Path, remora: &Path) -> Result<Self> {
        Ok(Self { stage: Stage::start(dir, remora)?, seed: None, context: None, hot: None, hot_facts: None, runs: 0 })
    }

    /// Reads one blob in every way.
    pub(crate) fn blobs(&mut self, factor: f64, rounds: usize) -> Result<Blobs> {
        self.clear()?;
        blob_reads::measure(&self.stage.dir, &self.stage.minio, &self.stage.remora, factor, rounds)
    }

    /// Reads and writes streams of the content endpoint.
    pub(crate) fn streams(&mut self, factor: f64, rounds: usize) -> Result<Streams> {
        self.clear()?;
        content_streams::measure(&self.stage.dir, &self.stage.remora, factor, rounds)
    }

    /// Prepares what the workload starts from.
    pub(crate) fn prepare(&mut self, work: Work) -> Result<()> {
        match work {
            Work::Import(layers) | Work::Export(layers) | Work::Reexport(layers) => {
                if self.seed.as_ref().is_none_or(|seed| seed.layers != layers) {
                    self.clear()?;
                    self.seed = Some(self.seed(layers)?);
                    self.stage.minio.make_bucket(REMORA_SEED)?;
                    self.warm(S3, &RELAY, &Place { bucket: REMORA_SEED.to_owned(), folder: PathBuf::new() })?;
                }
            }
            Work::Context(bytes) => {
                if self.context.as_ref().is_none_or(|(have, _)| *have != bytes) {
                    self.clear()?;
                    self.context = Some((bytes, files_context(&self.stage.dir.join("files"), bytes)?));
                }
            }
            Work::ImportHot(name) | Work::ExportHot(name) => {
                if self.hot.as_ref().is_none_or(|hot| hot.name != name) {
                    self.clear()?;
                    let (hot, facts) = hot_name::prepare(&self.stage, name)?;
                    (self.hot, self.hot_facts) = (Some(hot), Some(facts));
                }
            }
        }
        Ok(())
    }

    /// Runs one contestant once.
    pub(crate) fn run(&mut self, workload: &Workload, work: Work, contestant: &Contestant) -> Result<Sample> {
        self.runs += 1;
        let run = self.runs.to_string();
        // What the last run wrote must not be on its way to the disk while this one is timed.
        rustix::fs::sync();
        match work {
            Work::Import(layers) => {
                let seed = self.seed.as_ref().context("no seed")?;
                let place = seed.place(contestant);
                let (sample, built) = cold(&self.stage, workload.network, contestant, &place, &Task::import(&seed.context, &run))?;
                let count = layers.count() as usize;
                ensure!(built.cached == count && built.layer_steps == count, "{} of {count} layers came from the cache", built.cached);
                if let Some(fetched) = sample.upstream.as_ref().map(|traffic| traffic.bytes_down) {
                    let total = layers.total();
                    let primed = contestant.primed;
                    let as_expected = if primed { fetched < total / 8 } else { fetched >= total };
                    ensure!(as_expected, "{fetched} of {total} bytes came from S3");
                }
                Ok(sample)
            }
            Work::Context(_) => {
                let (_, context) = self.context.as_ref().context("no context")?;
                self.stage.minio.make_bucket(&format!("run-{run}"))?;
                let place = Place { bucket: format!("run-{run}"), folder: PathBuf::new() };
                let (sample, _) = cold(&self.stage, workload.network, contestant, &place, &Task::import(context, &run))?;
                self.stage.minio.remove_bucket(&place.bucket)?;
                Ok(sample)
            }
            Work::Export(_) => {
                let place = Place { bucket: format!("run-{run}"), folder: self.stage.dir.join(format!("run-{run}")) };
                self.stage.minio.make_bucket(&place.bucket)?;
                let sample = self.warm(workload.network, contestant, &place);
                let exported = self.verify_export(contestant, &place);
                self.stage.minio.remove_bucket(&place.bucket)?;
                remove(&place.folder)?;
                let sample = sample?;
                exported?;
                Ok(sample)
            }
            Work::Reexport(_) => {
                let place = self.seed.as_ref().context("no seed")?.place(contestant);
                self.warm(workload.network, contestant, &place)
            }
            Work::ImportHot(_) | Work::ExportHot(_) => {
                let exports = matches!(work, Work::ExportHot(_));
                let hot = self.hot.as_mut().context("no hot name")?;
                hot.run(&self.stage, workload, contestant, exports, self.runs)
            }
        }
    }

    /// A run on the builder that holds the layers.
    fn warm(&self, network: Network, contestant: &Contestant, place: &Place) -> Result<Sample> {
        let seed = self.seed.as_ref().context("no seed")?;
        let route = Route::start(&self.stage, network, contestant, place, &seed.builder)?;
        let cache_to = route.export_attrs(contestant.via, place);
        let build = Build { address: &route.address, context: &seed.context, nonce: SEED, cache_to, cache_from: vec![] };
        let (sample, built) = measure(&self.stage, &build, &seed.builder, &route)?;
        ensure!(built.cached == built.layer_steps, "the builder built again");
        ensure!(built.exported || contestant.via == Via::Direct, "no cache was exported");
        if contestant.settings == JOURNAL {
            // remora goes with this call, and must have finished the export before.
            let started = Instant::now();
            while self.verify_export(contestant, place).is_err() && started.elapsed() < JOURNAL_PATIENCE {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        Ok(sample)
    }

    /// Builds the layers, and exports them uncompressed: random bytes do not get smaller, and what compression costs
    /// would hide what the cache costs. A builder uses for every later export the blobs that it made for the first.
    fn seed(&self, layers: Layers) -> Result<Seed> {
        let dir = self.stage.dir.join("seed");
        let context = layers_context(&dir, layers)?;
        let builder = Buildkitd::start(&dir.join("builder"))?;
        let folder = dir.join("cache");
        self.stage.minio.make_bucket(NATIVE_SEED)?;
        let local = format!("type=local,dest={},mode=max,compression=uncompressed", folder.display());
        let native = native(NATIVE_SEED, &self.stage.minio.address().to_string()) + ",mode=max";
        for cache_to in [local, native] {
            let build = Build { address: &builder.address(), context: &context, nonce: SEED, cache_to: vec![cache_to], cache_from: vec![] };
            build.run(&self.stage.dir.join("progress"))?;
        }
        let (in_bucket, in_folder) = (files_below(&self.stage.minio.folder(NATIVE_SEED))?, files_below(&folder)?);
        let expected = layers.total();
        ensure!(in_bucket.1 >= expected && in_folder.1 >= expected, "the seed has {in_bucket:?} and {in_folder:?}, not {expected} bytes");
        Ok(Seed { layers, dir, context, builder, in_bucket, in_folder })
    }

    fn verify_export(&self, contestant: &Contestant, place: &Place) -> Result<()> {
        let seed = self.seed.as_ref().context("no seed")?;
        let (found, expected) = match contestant.via {
            Via::Local => (files_below(&place.folder)?, seed.in_folder),
            Via::Direct | Via::Control => return Ok(()),
            Via::Native | Via::Relay | Via::Session => (files_below(&self.stage.minio.folder(&place.bucket))?, seed.in_bucket),
        };
        // Manifests name times, whose length differs by a few bytes.
        ensure!(found.0 >= expected.0 && found.1 + (4 << 10) >= expected.1, "exported {found:?} files and bytes, not {expected:?}");
        Ok(())
    }

    /// Drops what the last workload started from.
    fn clear(&mut self) -> Result<()> {
        if let Some(seed) = self.seed.take() {
            drop(seed.builder);
            [NATIVE_SEED, REMORA_SEED].iter().try_for_each(|bucket| self.stage.minio.remove_bucket(bucket))?;
        }
        if let Some(hot) = self.hot.take() {
            hot.remove(&self.stage.minio)?;
        }
        self.context = None;
        remove(&self.stage.dir.join("hot"))?;
        remove(&self.stage.dir.join("seed"))?;
        remove(&self.stage.dir.join("files"))
    }
}

impl Seed {
    /// The cache that a contestant imports.
    fn place(&self, contestant: &Contestant) -> Place {
        let bucket = if contestant.via.transport().is_some() { REMORA_SEED } else { NATIVE_SEED };
        Place { bucket: bucket.to_owned(), folder: self.dir.join("cache") }
    }
}
