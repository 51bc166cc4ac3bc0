//! One cache name that the commits of several branches were exported to, many times and several at once.
//!
//! The exports are made up but for the last one of each branch, which a real builder makes; remora's own merging makes
//! of them what is stored. Native's name has one real export alone, as with native the last writer wins: one name for
//! each branch, so that each contestant imports the same commit.

mod commits;
mod exporters;
mod facts;
mod synthetic_export;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

use anyhow::{Context as _, Result, anyhow, ensure};
use aws_sdk_s3::Client;
use remora_test_support::minio::Minio;
use tokio::runtime::Runtime;

use self::commits::{Commit, OWN_LAYERS, OWN_STEPS, SHARED_STEPS};
pub(crate) use self::facts::Facts;
use self::facts::Stored;
use self::synthetic_export::Template;
use crate::buildctl::{Build, Built, SEED};
use crate::clients::client;
use crate::daemons::{Buildkitd, files_below, remove};
use crate::route::{MANIFEST, Place, Route, native};
use crate::sample::Sample;
use crate::stage::Stage;
use crate::timed_build::{Task, cold};
use crate::workloads::{Contestant, HotName, RELAY, S3, Workload};

/// remora's bucket.
const BUCKET: &str = "hot-remora";
/// Where a copy of a bucket's manifest is kept: every run starts from it.
const KEPT: &str = "kept";
const STEPS: usize = (SHARED_STEPS + OWN_STEPS) as usize;

/// What the runs start from.
#[derive(Debug)]
pub(crate) struct Hot {
    pub(crate) name: HotName,
    dir: PathBuf,
    runtime: Runtime,
    s3: Client,
    /// The runs of each contestant: each takes the next branch.
    turns: BTreeMap<&'static str, u32>,
}

/// Makes the exports, and checks that every branch's last one is imported whole.
pub(crate) fn prepare(stage: &Stage, name: HotName) -> Result<(Hot, Facts)> {
    let started = Instant::now();
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let hot = Hot { name, dir: stage.dir.join("hot"), runtime, s3: client(stage.minio.address()), turns: BTreeMap::new() };
    for bucket in hot.buckets() {
        // A preparation that failed may have left the bucket.
        remove(&stage.minio.folder(&bucket))?;
        stage.minio.make_bucket(&bucket)?;
    }
    for branch in 0..name.branches {
        hot.last(branch).make_context(&hot.context(branch))?;
    }
    let builder = Buildkitd::start(&hot.dir.join("builder"))?;
    let endpoint = stage.minio.address().to_string();
    let to_native = |branch| hot.export(branch, &builder.address(), native(&bucket_of(branch), &endpoint));
    // The first export runs the steps that all share.
    to_native(0)?;
    hot.at_once(1, &to_native)?;
    let documents: Result<Vec<_>> = (0..name.branches).map(|branch| hot.manifest(&bucket_of(branch))).collect();
    let template = Template::new(&documents?)?;
    ensure!(template.own_layers() == OWN_LAYERS as usize, "a commit has {} layers of its own", template.own_layers());

    let place = hot.place(true, 0);
    let route = Route::start(stage, S3, &RELAY, &place, &builder)?;
    let s3 = route.remora.as_ref().context("no remora")?.s3;
    let writing = Instant::now();
    hot.runtime.block_on(exporters::bring_shared(&hot.s3, &bucket_of(0), &client(s3), BUCKET, &template))?;
    hot.runtime.block_on(exporters::write(&client(s3), BUCKET, MANIFEST, &template, name))?;
    let seconds_writing = writing.elapsed().as_secs_f64();
    let attrs = route.attrs(RELAY.via, &place, "dest").concat();
    hot.at_once(0, &|branch| hot.export(branch, &route.address, attrs.clone()))?;
    drop((route, builder));

    for bucket in hot.buckets() {
        hot.copy(&bucket, MANIFEST, KEPT)?;
    }
    let mut lost = Vec::new();
    for branch in 0..name.branches {
        let task = Task { context: &hot.context(branch), nonce: "whole", exports: false };
        let (_, built) = cold(stage, S3, &RELAY, &place, &task)?;
        if let Err(error) = all_cached(&built, STEPS) {
            lost.push(format!("{}: {error}", hot.last(branch).source().trim_end()));
        }
    }
    ensure!(lost.is_empty(), "the hot name has lost what was exported last: {}", lost.join("; "));
    let facts = Facts {
        exports: name.exports,
        branches: name.branches,
        exporters_at_once: name.at_once,
        seconds_writing,
        seconds_preparing: started.elapsed().as_secs_f64(),
        stored: vec![
            Stored::of("hot name, by remora", &hot.manifest(BUCKET)?)?,
            Stored::of("one branch's own, by native", &hot.manifest(&bucket_of(0))?)?,
        ],
    };
    Ok((hot, facts))
}

fn all_cached(built: &Built, expected: usize) -> Result<()> {
    ensure!(built.layer_steps == STEPS, "{} steps, not {STEPS}", built.layer_steps);
    ensure!(built.cached == expected, "{} of {STEPS} steps came from the cache, not {expected}", built.cached);
    Ok(())
}

/// Native's bucket of a branch.
fn bucket_of(branch: u32) -> String {
    format!("hot-native-{branch}")
}

impl Hot {
    /// Runs one contestant once on an empty builder: it imports what a branch exported last, or builds the commit after
    /// that and exports it to the same name.
    pub(crate) fn run(&mut self, stage: &Stage, workload: &Workload, contestant: &Contestant, exports: bool, run: u32) -> Result<Sample> {
        let turn = self.turns.entry(contestant.name).or_default();
        let branch = *turn % self.name.branches;
        *turn += 1;
        let place = self.place(contestant.via.transport().is_some(), branch);
        let before = self.copy(&place.bucket, KEPT, MANIFEST)?;
        let blobs = stage.minio.folder(&place.bucket).join("blobs");
        let blobs_before = if exports { files_below(&blobs)?.0 } else { 0 };
        let mut context = self.context(branch);
        if exports {
            let last = self.last(branch);
            context = Commit { number: last.number + run, ..last }.make_context(&self.dir.join("next"))?;
        }
        rustix::fs::sync();
        let (sample, built) =
            cold(stage, workload.network, contestant, &place, &Task { context: &context, nonce: &run.to_string(), exports })?;
        if exports {
            all_cached(&built, SHARED_STEPS as usize)?;
            ensure!(built.exported, "no cache was exported");
            let added = files_below(&blobs)?.0 - blobs_before;
            ensure!(added >= u64::from(OWN_LAYERS), "{added} blobs were exported, not {OWN_LAYERS}");
            ensure!(self.version(&place.bucket)? != before, "no manifest was exported");
        } else {
            all_cached(&built, STEPS)?;
        }
        Ok(sample)
    }

    pub(crate) fn remove(&self, minio: &Minio) -> Result<()> {
        Ok(self.buckets().iter().try_for_each(|bucket| minio.remove_bucket(bucket))?)
    }

    fn buckets(&self) -> Vec<String> {
        (0..self.name.branches).map(bucket_of).chain([BUCKET.to_owned()]).collect()
    }

    fn place(&self, remora: bool, branch: u32) -> Place {
        Place { bucket: if remora { BUCKET.to_owned() } else { bucket_of(branch) }, folder: PathBuf::new() }
    }

    /// The last commit of a branch that was exported.
    fn last(&self, branch: u32) -> Commit {
        Commit { branch, number: self.name.exports.div_ceil(self.name.branches) }
    }

    /// The context of a branch's last commit.
    fn context(&self, branch: u32) -> PathBuf {
        self.dir.join(format!("branch-{branch}"))
    }

    /// Calls for all branches from `first` on, as many at once as there are exporters.
    fn at_once(&self, first: u32, work: &(impl Fn(u32) -> Result<()> + Sync)) -> Result<()> {
        let branches: Vec<u32> = (first..self.name.branches).collect();
        for branches in branches.chunks(self.name.at_once) {
            std::thread::scope(|scope| {
                let threads: Vec<_> = branches.iter().map(|&branch| scope.spawn(move || work(branch))).collect();
                threads.into_iter().try_for_each(|thread| thread.join().map_err(|_| anyhow!("an exporter panicked"))?)
            })?;
        }
        Ok(())
    }

    /// Exports the last commit of a branch, as a real builder does.
    fn export(&self, branch: u32, address: &str, attrs: String) -> Result<()> {
        let context = self.context(branch);
        let cache_to = vec![attrs + ",mode=max"];
        let build = Build { address, context: &context, nonce: SEED, cache_to, cache_from: vec![] };
        let built = build.run(&self.dir.join(format!("progress-{branch}")))?;
        // A step that several builds of one builder share at one moment may be reported twice.
        ensure!(built.layer_steps >= STEPS, "branch {branch}: {} steps, not {STEPS}", built.layer_steps);
        ensure!(built.exported, "branch {branch}: no cache was exported");
        Ok(())
    }

    fn manifest(&self, bucket: &str) -> Result<Vec<u8>> {
        self.runtime.block_on(async {
            let answer = self.s3.get_object().bucket(bucket).key(MANIFEST).send().await.context("no manifest")?;
            Ok(answer.body.collect().await?.to_vec())
        })
    }

    /// The version of a bucket's manifest.
    fn version(&self, bucket: &str) -> Result<Option<String>> {
        let answer = self.runtime.block_on(self.s3.head_object().bucket(bucket).key(MANIFEST).send());
        Ok(answer.context("no manifest")?.e_tag)
    }

    /// Copies a manifest within its bucket, and returns the version of the copy.
    fn copy(&self, bucket: &str, from: &str, to: &str) -> Result<Option<String>> {
        let copy = self.s3.copy_object().bucket(bucket).copy_source(format!("{bucket}/{from}")).key(to);
        let answer = self.runtime.block_on(copy.send()).with_context(|| format!("cannot copy {from} of {bucket}"))?;
        Ok(answer.copy_object_result.and_then(|copied| copied.e_tag))
    }
}
