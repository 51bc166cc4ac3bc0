//! One builder on which remora is told to end again and again, each time at another moment of a build.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::moments::{Event, Moment};
use super::rig::{self, Rig};
use crate::support::cases::{Transport, Via};
use crate::support::client::{Build, Outcome};
use crate::support::context::Context;
use crate::support::image;

const LAYER: u64 = 18 << 20;
/// The name of the cache that is imported and never exported again.
const SEED: &str = "seed";
const UNDISTURBED: &str = "undisturbed";
/// A layer that the sleep stands on, one that is needed only after it, and a small and a large one to export.
const STEPS: &str = "FROM base AS late
RUN busybox dd if=/dev/urandom of=/late bs=1M count=18
FROM base AS sleeper
RUN busybox dd if=/dev/urandom of=/early bs=1M count=18
COPY changed /changed
RUN --mount=type=bind,source=sleep,target=/sleep echo STARTED; busybox sleep $(busybox cat /sleep); echo > /done
FROM late
COPY --from=sleeper /changed /done /
RUN busybox cat /changed /late > /large
RUN busybox sha256sum /late /large > /sums
";
/// How soon remora ends after its last build.
const END: Duration = Duration::from_secs(5);
const SENT: &str = "remora_sent_bytes_total";

pub struct Drill {
    rig: Box<dyn Rig>,
    via: Via,
    context: Context,
    images: tempfile::TempDir,
    /// Which steps an import brings, and the files of the image, where nothing disturbs the build.
    steps: BTreeMap<String, bool>,
    files: BTreeMap<String, String>,
    /// The names of all manifests that are to be there.
    published: BTreeSet<String>,
    /// Descriptions of what was wrong.
    faults: Vec<String>,
}

impl Drill {
    /// Makes a cache to import, and runs a build that nothing disturbs, to compare the others with.
    pub fn start(via: Via, transport: Transport) -> Self {
        let mut drill = Self {
            rig: rig::start(via, transport),
            via,
            context: Context::after_base(STEPS),
            images: tempfile::tempdir().expect("temp dir"),
            steps: BTreeMap::new(),
            files: BTreeMap::new(),
            published: [SEED, UNDISTURBED].map(str::to_owned).into(),
            faults: Vec::new(),
        };
        drill.context.write("sleep", "0");
        drill.context.write("changed", "before");
        drill.rig.client().build(&drill.build(SEED, None)).expect_success().assert_executed();
        drill.context.write("changed", "after");
        drill.rig.wipe();
        let outcome = drill.rig.client().build(&drill.build(UNDISTURBED, Some(SEED))).expect_success();
        drill.steps = cached(&outcome);
        drill.files = image::files(&drill.image(UNDISTURBED));
        assert_eq!(drill.steps.values().filter(|cached| **cached).count(), 3, "{outcome:#?}");
        drill
    }

    fn image(&self, name: &str) -> PathBuf {
        self.images.path().join(format!("{name}.tar"))
    }

    fn build(&self, export: &str, import: Option<&str>) -> Build {
        let attrs = |name: &str| format!("type=s3,region=us-east-1,bucket={},name={name}", rig::BUCKET);
        Build {
            cache_to: vec![format!("{},mode=max", attrs(export))],
            cache_from: import.map(attrs).into_iter().collect(),
            ..Build::of(self.context.path()).image(&self.image(export))
        }
    }

    fn check(&mut self, moment: &Moment, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            let fault = format!("{}: {}", moment.name, what());
            eprintln!("{fault}");
            self.faults.push(fault);
        }
    }

    /// Builds, tells remora to end at this moment, and compares the build with the undisturbed one.
    pub fn end_at(&mut self, moment: &Moment) {
        self.context.write("sleep", moment.sleep());
        self.rig.wipe();
        let metadata = self.images.path().join("metadata.json");
        let build = Build { metadata: Some(metadata.clone()), ..self.build(moment.name, moment.imports.then_some(SEED)) };
        let sent = self.rig.metric(SENT);
        let prepared = moment.prepare(&*self.rig, self.via);
        let mut client = self.rig.client().start(&build);
        moment.comes(&*self.rig, &mut client, &prepared);
        let sent = self.rig.metric(SENT) - sent;
        self.rig.terminate();
        Moment::passes(&*self.rig, &prepared);
        let outcome = self.rig.client().outcome(client);
        let ended = Instant::now();
        let code = self.rig.exit_code();
        let took = ended.elapsed();
        drop(prepared);
        self.check(moment, code == Some(0) && took < END, || format!("remora ended with {code:?}, {took:?} after the build"));
        match moment.event {
            Event::Midway => self.check(moment, sent > 0 && sent < LAYER, || format!("{sent} bytes were read before the signal")),
            Event::Sleep => self.check(moment, sent < 2 * LAYER, || format!("{sent} bytes were read before the signal")),
            _ => {}
        }
        let log = self.rig.log();
        let passed = outcome.status.success();
        self.check(moment, passed, || format!("the build failed: {outcome:#?}\n{log}"));
        self.rig.start_again();
        if passed {
            self.published.insert(moment.name.to_owned());
            self.compare(moment, &outcome);
            let record = std::fs::read_to_string(metadata).unwrap_or_default();
            self.check(moment, self.via == Via::Buildctl || record.contains("buildx.build.provenance"), || format!("no record: {record}"));
        }
        let published = self.rig.manifests();
        let expected = self.published.clone();
        self.check(moment, published == expected, || format!("published: {published:?}"));
        self.published = published;
    }

    fn compare(&mut self, moment: &Moment, outcome: &Outcome) {
        let content = image::content(&self.image(moment.name));
        let files = image::files(&self.image(moment.name));
        if moment.imports {
            let steps = cached(outcome);
            self.check(moment, steps == self.steps, || format!("other steps were cached: {steps:#?}"));
            self.check(moment, files == self.files, || format!("other files: {files:#?}"));
        } else {
            outcome.assert_executed();
            self.check(moment, files.keys().eq(self.files.keys()), || format!("other files: {files:#?}"));
        }
        self.rig.wipe();
        let sent = self.rig.metric(SENT);
        let again = Build { cache_to: Vec::new(), ..self.build(moment.name, Some(moment.name)) };
        let again = self.rig.client().build(&again);
        let all_cached = again.status.success() && again.steps.values().all(|step| step.cached);
        self.check(moment, all_cached, || format!("what was published is not all: {again:#?}"));
        if all_cached {
            let sent = self.rig.metric(SENT) - sent;
            self.check(moment, sent > 2 * LAYER, || format!("the builder had it all: {sent} bytes"));
            let image = image::content(&self.image(moment.name));
            self.check(moment, image == content, || format!("another image: {image:#?}, not {content:#?}"));
        }
    }

    /// Fails the test if anything was wrong.
    pub fn finish(self) {
        self.rig.verify();
        assert!(self.faults.is_empty(), "{}", self.faults.join("\n"));
    }
}

/// Which steps came from the cache.
fn cached(outcome: &Outcome) -> BTreeMap<String, bool> {
    outcome.steps.iter().map(|(name, step)| (name.clone(), step.cached)).collect()
}
