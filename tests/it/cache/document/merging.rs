//! Which results stay in a manifest that many exports go to, against a model of the rule.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use remora::cache::{CacheConfig, MergeLimits, StoredConfig};
use remora::types::{Digest, Rights};
use serde_json::json;
use time::OffsetDateTime;

use super::no_limits;
use crate::support::cache::{Fixture, HOUR, build as build_grant, name};
use crate::support::documents::{chain, chain_of, digest, meaning};

const START: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

/// A cache name that exports go to, as remora keeps it.
#[derive(Debug, Default)]
struct Name {
    stored: Option<CacheConfig>,
    exports: u32,
}

impl Name {
    /// Exports a chain of steps, each with a layer. Returns how many results were dropped.
    fn export(&mut self, steps: &[String], hits: &BTreeSet<Digest>, limits: &MergeLimits) -> usize {
        self.exports += 1;
        let sent = build(steps);
        let Some(stored) = &self.stored else {
            self.stored = Some(sent);
            return 0;
        };
        // There are several exports in a second, and S3 keeps the time of an object in whole seconds.
        let at = START + Duration::from_secs(u64::from(self.exports) / 3);
        let merged = sent.merged(&StoredConfig { config: stored, at, hits }, limits);
        merged.config.validate().unwrap();
        // The next export reads it back from its JSON.
        let config = if merged.inherited == 0 { sent } else { merged.config };
        self.stored = Some(CacheConfig::parse(&config.to_json()).unwrap());
        merged.dropped
    }

    fn stored(&self) -> &CacheConfig {
        self.stored.as_ref().unwrap()
    }

    /// How many steps of this build an import finds.
    fn found(&self, steps: &[String]) -> usize {
        let stored = meaning(self.stored());
        meaning(&build(steps)).keys().filter(|key| stored.contains_key(*key)).count()
    }
}

fn build(steps: &[String]) -> CacheConfig {
    let steps: Vec<&str> = steps.iter().map(String::as_str).collect();
    CacheConfig::parse(&chain(&steps, START)).unwrap()
}

/// A commit of a branch: steps that all builds share, then those of its own source.
fn commit(branch: usize, number: u32) -> Vec<String> {
    let own = ["copy", "compile", "link"].map(|step| format!("{step} {branch}.{number}"));
    ["base", "packages"].map(str::to_owned).into_iter().chain(own).collect()
}

fn generations(max_generations: usize) -> MergeLimits {
    MergeLimits { max_generations, ..no_limits() }
}

/// A model of the rule: what is left of each export, the newest first.
#[derive(Debug, Default)]
struct Model {
    exports: Vec<BTreeSet<String>>,
}

impl Model {
    fn export(&mut self, steps: &[String], hits: &BTreeSet<String>, max_generations: usize) {
        // In a chain, the steps below a step are part of its key.
        let mut newest: BTreeSet<String> = (1..=steps.len()).map(|length| steps[..length].join(" > ")).collect();
        let is_hit = |key: &String| hits.contains(key.rsplit(" > ").next().unwrap());
        newest.extend(self.exports.iter().flatten().filter(|key| is_hit(key)).cloned());
        for older in &mut self.exports {
            older.retain(|key| !newest.contains(key));
        }
        self.exports.retain(|left| !left.is_empty());
        self.exports.insert(0, newest);
        self.exports.truncate(max_generations);
    }

    fn keys(&self) -> BTreeSet<String> {
        self.exports.iter().flatten().cloned().collect()
    }
}

/// The results of a config in the words of the model.
fn keys(config: &CacheConfig, steps: &BTreeMap<String, String>) -> BTreeSet<String> {
    let record = |index: usize| &config.records()[index];
    let name = |index: usize| {
        let mut names = vec![steps[&record(index).digest].clone()];
        let mut below = record(index);
        while let Some(input) = below.inputs.iter().flatten().flatten().flatten().next() {
            below = record(input.link as usize);
            names.insert(0, steps[&below.digest].clone());
        }
        names.join(" > ")
    };
    (0..config.records().len()).filter(|index| record(*index).results.is_some()).map(name).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_newest_generations_stay_as_in_the_model(
        exports in prop::collection::vec((prop::collection::vec(0_u8..4, 1..4), prop::collection::btree_set(0_u8..12, 0..3)), 1..40),
        max_generations in 1_usize..6,
    ) {
        let names: BTreeMap<String, String> = (0..16).map(|step| (digest(&format!("step {step}")).to_string(), format!("step {step}"))).collect();
        let mut name = Name::default();
        let mut model = Model::default();
        for (steps, hits) in exports {
            // A step at each height is one of four.
            let steps: Vec<String> = (0..).zip(&steps).map(|(height, step)| format!("step {}", height * 4 + step)).collect();
            let hits: BTreeSet<String> = hits.iter().map(|step| format!("step {step}")).collect();
            name.export(&steps, &hits.iter().map(|step| digest(step)).collect(), &generations(max_generations));
            model.export(&steps, &hits, max_generations);
            prop_assert_eq!(keys(name.stored(), &names), model.keys());
        }
    }
}

#[test]
fn a_name_of_eight_branches_keeps_the_last_export_of_each_and_stays_small() {
    let mut name = Name::default();
    let mut last = vec![0; 8];
    for number in 0..1000 {
        // The branches take turns, but four export at once and end in any order.
        let branch = ((number / 4 * 4 + [2, 0, 3, 1][number as usize % 4]) % 8) as usize;
        last[branch] = number;
        name.export(&commit(branch, number), &BTreeSet::new(), &generations(24));
    }
    for (branch, number) in last.into_iter().enumerate() {
        assert_eq!(name.found(&commit(branch, number)), 5, "branch {branch}");
    }
    assert_eq!(name.stored().records().len(), 2 + 24 * 3);
}

#[test]
fn a_matrix_of_platforms_and_branches_keeps_the_last_export_of_each() {
    let mut name = Name::default();
    let build = |platform: usize, branch: usize, round: u32| -> Vec<String> {
        commit(branch, round).iter().map(|step| format!("{step} for {platform}")).collect()
    };
    for round in 0..30_u32 {
        // Every round has another order.
        for job in 0..12 {
            let job = (job * 5 + round as usize * 7) % 12;
            name.export(&build(job / 3, job % 3, round), &BTreeSet::new(), &generations(24));
        }
        for job in 0..12 {
            assert_eq!(name.found(&build(job / 3, job % 3, round)), 5, "round {round}, job {job}");
        }
    }
}

#[test]
fn exports_that_bring_nothing_new_push_out_no_results() {
    let mut name = Name::default();
    for branch in 0..3 {
        name.export(&commit(branch, 0), &BTreeSet::new(), &generations(3));
    }
    for _ in 0..100 {
        assert_eq!(name.export(&commit(2, 0), &BTreeSet::new(), &generations(3)), 0);
    }
    assert_eq!((0..3).map(|branch| name.found(&commit(branch, 0))).collect::<Vec<_>>(), [5, 5, 5]);
}

#[test]
fn results_that_imports_read_stay_and_the_others_go() {
    let mut name = Name::default();
    let release = commit(0, 0);
    name.export(&release, &BTreeSet::new(), &generations(3));
    for number in 1..50 {
        // A build of the release reads its last layer, and exports nothing.
        let hits = BTreeSet::from([digest(&release[4])]);
        name.export(&commit(1, number), &hits, &generations(3));
        assert!(name.stored().records().iter().any(|record| record.digest == digest(&release[4]).to_string()));
    }
    // The steps below it are there to be found, their own results are not: nobody read them.
    assert_eq!(name.found(&release), 3);
    for number in 50..53 {
        name.export(&commit(1, number), &BTreeSet::new(), &generations(3));
    }
    assert_eq!(name.found(&release), 2);
}

/// An earlier remora merged like this: every result had the time of its export, and exports were not counted.
#[test]
fn a_manifest_merged_before_exports_were_counted_is_thinned_at_the_next_export() {
    let mut stored = build(&commit(0, 0));
    for number in 1..300 {
        let sent = build(&commit(0, number));
        let at = START + Duration::from_secs(u64::from(number));
        let merged = sent.merged(&StoredConfig { config: &stored, at, hits: &BTreeSet::new() }, &generations(usize::MAX));
        stored = merged.config;
        stored.extra.remove("remoraGeneration");
        for result in stored.records.iter_mut().flatten().flat_map(|record| record.results.iter_mut().flatten()) {
            result.extra.remove("remoraGeneration");
        }
    }
    assert_eq!(stored.records().len(), 2 + 300 * 3);
    let mut name = Name { stored: Some(stored), exports: 1000 };
    assert!(name.export(&commit(1, 0), &BTreeSet::new(), &generations(24)) > 800);
    assert_eq!(name.stored().records().len(), 2 + 24 * 3);
    let kept = |number: u32| name.found(&commit(0, number)) == 5;
    assert_eq!((270..300).filter(|number| kept(*number)).collect::<Vec<_>>(), (277..300).collect::<Vec<_>>());
}

#[test]
fn fields_of_remora_that_clients_write_are_dropped() {
    let sent = chain(&["a"], START);
    let mut forged: serde_json::Value = serde_json::from_slice(&sent).unwrap();
    forged["remoraGeneration"] = json!(u64::MAX);
    forged["records"][0]["layers"][0]["remoraGeneration"] = json!(u64::MAX);
    forged["records"][0]["layers"][0]["remoraExportedAt"] = json!("9999-01-01T00:00:00Z");
    let forged = CacheConfig::parse(forged.to_string().as_bytes()).unwrap();
    let other = build(&["b".to_owned()]);
    let merged = forged.merged(&StoredConfig { config: &other, at: START, hits: &BTreeSet::new() }, &no_limits()).config;
    assert_eq!(merged.extra["remoraGeneration"], 1);
    let own = merged.records().iter().find(|record| record.digest == digest("a").to_string()).unwrap();
    assert!(own.results.as_ref().unwrap()[0].extra.is_empty());
    // A result that somebody else stored is no younger than the export that it came with.
    let merged = other.merged(&StoredConfig { config: &forged, at: START, hits: &BTreeSet::new() }, &no_limits()).config;
    let own = merged.records().iter().find(|record| record.digest == digest("a").to_string()).unwrap();
    assert_eq!(own.results.as_ref().unwrap()[0].extra["remoraExportedAt"], "1970-01-01T00:00:00Z");
}

#[tokio::test]
async fn a_read_by_an_import_is_written_down_by_the_next_export() {
    let fixture = Fixture::merging(HOUR).await;
    let blobs: Vec<Bytes> = (0..30_u8).map(|blob| Bytes::from(vec![blob; 8])).collect();
    let digests: Vec<Digest> = blobs.iter().map(|blob| fixture.plant(blob)).collect();
    fixture.publish(&chain_of(&[(digests[0], 8)])).await.unwrap();
    let names = |fixture: &Fixture| fixture.published().blobs().into_keys().collect::<BTreeSet<_>>();
    for (export, digest) in digests[1..].iter().enumerate() {
        // Each export writes down the reads since the one before it, once.
        if export % 5 == 0 {
            let import = build_grant(Rights::IMPORT).disclosed_blobs_only().build();
            fixture.cache.manifests().import(&import, &name()).await.unwrap();
            fixture.cache.blobs().read(&import, &digests[0], None).await.unwrap();
        }
        fixture.publish(&chain_of(&[(*digest, 8)])).await.unwrap();
        assert!(names(&fixture).contains(&digests[0]), "export {export}");
    }
    for digest in &digests[1..12] {
        fixture.publish(&chain_of(&[(*digest, 8)])).await.unwrap();
    }
    assert!(!names(&fixture).contains(&digests[0]));
}
