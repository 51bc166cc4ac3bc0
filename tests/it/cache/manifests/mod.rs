//! Manifests as builds get and put them: pruned of what is gone, merged with what others put.

mod promises;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use proptest::prelude::*;
use remora::cache::{Cache, CacheConfig, Condition, Error, MergeLimits, MergeRules, Settings, StoredConfig};
use remora::metrics::Metrics;
use remora::shutdown::Shutdown;
use remora::store::{Served, Store, Stores};
use remora::types::{Digest, Grant, ManifestName, Rights, Scope};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::support::fault_store::{Fault, FaultStore};
use crate::support::log::Log;
use crate::support::memory_store::{Conditions, MemoryStore};
use crate::support::settings::settings;

const HOUR: Duration = Duration::from_secs(3600);
const MAX_RECORDS: usize = 40;

/// A cache over a bucket in memory.
pub(crate) struct Bench {
    pub(crate) cache: Cache,
    pub(crate) store: MemoryStore,
    pub(crate) metrics: Metrics,
    _spool: tempfile::TempDir,
}

impl Bench {
    pub(crate) async fn new(presence_max_age: Duration) -> Self {
        Self::over(MemoryStore::default(), presence_max_age).await
    }

    pub(crate) async fn over(store: MemoryStore, presence_max_age: Duration) -> Self {
        Self::through(Arc::new(store.clone()), store, presence_max_age).await
    }

    /// Over a store whose every call takes its time, so that those of several exporters meet.
    async fn over_slow(store: &MemoryStore) -> Self {
        Self::through(Arc::new(FaultStore::new(store.clone())), store.clone(), HOUR).await
    }

    /// What reaches `memory` by way of `store`.
    pub(crate) async fn through(store: Arc<dyn Store>, memory: MemoryStore, presence_max_age: Duration) -> Self {
        let (metrics, spool) = (Metrics::default(), tempfile::tempdir().unwrap());
        let served = Served { store, region: None, prefix: String::new() };
        let stores = Stores::Buckets { served: BTreeMap::from([("bucket".parse().unwrap(), served)]), default: "bucket".parse().unwrap() };
        let merge = Some(MergeRules { max_generations: 10, max_records: MAX_RECORDS, max_age: HOUR });
        let settings = Settings { presence_max_age, merge, ..settings(spool.path()) };
        let cache = Cache::open(stores, settings, metrics.clone(), Shutdown::default()).await.unwrap();
        Self { cache, store: memory, metrics, _spool: spool }
    }

    fn plant(&self, blob: &str) {
        self.store.plant(&key(blob), Bytes::from_static(b"bytes"), OffsetDateTime::now_utc());
    }

    pub(crate) async fn put(&self, document: &Bytes) -> Result<(), Error> {
        self.cache.put_manifest(&export(), &name(), document.clone(), Condition::None).await.map(|_| ())
    }

    pub(crate) fn stored(&self) -> CacheConfig {
        CacheConfig::parse(&self.store.bytes("manifests/app").unwrap()).unwrap()
    }
}

pub(crate) fn digest(blob: &str) -> Digest {
    Digest::of(blob.as_bytes())
}

fn key(blob: &str) -> String {
    format!("blobs/{}", digest(blob))
}

pub(crate) fn name() -> ManifestName {
    "app".parse().unwrap()
}

pub(crate) fn grant(rights: Rights) -> Grant {
    Grant::builder(Scope::new("bucket".parse().unwrap(), "").unwrap(), rights).names(&[name()]).build()
}

fn export() -> Grant {
    grant(Rights::EXPORT)
}

fn layer(blob: &Digest, parent: i64) -> Value {
    json!({ "blob": blob.to_string(), "parent": parent, "annotations":
        { "mediaType": "m", "diffID": blob.to_string(), "size": 5, "createdAt": "2026-01-01T00:00:00Z" } })
}

/// A manifest of layers without parents and of `records`.
pub(crate) fn document(blobs: &[Digest], records: &[Value]) -> Bytes {
    let layers: Vec<Value> = blobs.iter().map(|blob| layer(blob, -1)).collect();
    json!({ "layers": layers, "records": records }).to_string().into()
}

/// A manifest of one chain of layers, the lowest first, with their sizes in bytes.
pub(crate) fn chain_of(layers: &[(Digest, usize)]) -> Bytes {
    let layer = |(below, (digest, size)): (i64, &(Digest, usize))| {
        let annotations = json!({ "mediaType": "x", "diffID": digest.to_string(), "size": size });
        json!({ "blob": digest.to_string(), "parent": below, "annotations": annotations })
    };
    let record =
        json!({ "digest": layers[0].0.to_string(), "layers": [{ "layer": layers.len() - 1, "createdAt": "2026-01-01T00:00:00Z" }] });
    let layers: Vec<Value> = (-1..).zip(layers).map(layer).collect();
    json!({ "layers": layers, "records": [record] }).to_string().into()
}

/// A build of steps, each on top of the one before, with a layer named as the step.
pub(crate) fn chain(steps: &[&str], created: OffsetDateTime) -> Bytes {
    let layers: Vec<Value> = (-1..).zip(steps).map(|(parent, step)| layer(&digest(step), parent)).collect();
    let created = created.format(&Rfc3339).unwrap();
    let records: Vec<Value> = (0..)
        .zip(steps)
        .map(|(index, step)| {
            let mut record = json!({ "layers": [{ "layer": index, "createdAt": created }], "digest": digest(step).to_string() });
            if index > 0 {
                record["inputs"] = json!([[{ "link": index - 1 }]]);
            }
            record
        })
        .collect();
    json!({ "layers": layers, "records": records }).to_string().into()
}

/// What BuildKit makes of a config: the results of each cache key, as the blobs in their order and when
/// they were made. A key is its digest and those of its inputs, all the way down.
pub(crate) fn meaning(config: &CacheConfig) -> BTreeMap<String, BTreeSet<(OffsetDateTime, Vec<String>)>> {
    fn key(config: &CacheConfig, index: usize) -> String {
        let record = &config.records()[index];
        let inputs: Vec<BTreeSet<String>> = record
            .inputs
            .iter()
            .flatten()
            .map(|input| input.iter().flatten().map(|input| format!("{}@{}", input.selector, key(config, input.link as usize))).collect())
            .collect();
        format!("{}{inputs:?}", record.digest)
    }
    fn blobs(config: &CacheConfig, index: i64) -> Vec<String> {
        let layer = &config.layers()[index as usize];
        let mut below = if layer.parent < 0 { Vec::new() } else { blobs(config, layer.parent) };
        below.push(layer.blob.clone());
        below
    }
    let time = |text: &Option<String>| OffsetDateTime::parse(text.as_ref().unwrap(), &Rfc3339).unwrap();
    let mut meaning: BTreeMap<String, BTreeSet<_>> = BTreeMap::new();
    for (index, record) in config.records().iter().enumerate() {
        let single = record.results.iter().flatten().map(|result| (time(&result.created_at), blobs(config, result.layer)));
        let one = |&layer: &i64| config.layers()[layer as usize].blob.clone();
        let chained = record.chained_results.iter().flatten();
        let chained = chained.map(|result| (time(&result.created_at), result.layers.iter().flatten().map(one).collect()));
        meaning.entry(key(config, index)).or_default().extend(single.chain(chained));
    }
    meaning.retain(|_, results| !results.is_empty());
    meaning
}

/// The same with the newest result of each key alone.
fn newest(config: &CacheConfig) -> BTreeMap<String, OffsetDateTime> {
    meaning(config).into_iter().map(|(key, results)| (key, results.last().unwrap().0)).collect()
}

const BLOBS: [&str; 6] = ["a", "b", "c", "d", "e", "f"];

prop_compose! {
    fn any_config()(
        layers in prop::collection::vec((0..BLOBS.len(), any::<u8>()), 1..9),
        records in prop::collection::vec(
            (0_u8..5, prop::collection::vec(prop::collection::vec((any::<u8>(), "[xy]?"), 1..3), 0..3),
             prop::collection::vec((any::<u8>(), 0_i64..50), 0..2), prop::collection::vec((prop::collection::vec(any::<u8>(), 0..3), 0_i64..50), 0..2)),
            0..9),
        order in any::<bool>(),
    ) -> CacheConfig {
        let below = |index: usize, choice: u8| if index == 0 { -1 } else { i64::from(choice) % (index as i64 + 1) - 1 };
        let layer_count = layers.len() as i64;
        let at = |second: i64| (OffsetDateTime::UNIX_EPOCH + Duration::from_secs(second as u64)).format(&Rfc3339).unwrap();
        let mut layers: Vec<Value> = layers.iter().enumerate().map(|(index, (blob, parent))| layer(&digest(BLOBS[*blob]), below(index, *parent))).collect();
        layers[0]["x-unknown"] = json!([1]);
        let mut records: Vec<Value> = records.iter().enumerate().map(|(index, (digest, inputs, results, chains))| {
            let inputs: Vec<Vec<Value>> = if index == 0 { Vec::new() } else {
                inputs.iter().map(|input| input.iter().map(|(link, selector)| json!({ "selector": selector, "link": usize::from(*link) % index })).collect()).collect()
            };
            let results: Vec<Value> = results.iter().map(|(layer, second)| json!({ "layer": i64::from(*layer) % layer_count, "createdAt": at(*second) })).collect();
            let chains: Vec<Value> = chains.iter().map(|(layers, second)| {
                let layers: Vec<i64> = layers.iter().map(|layer| i64::from(*layer) % layer_count).collect();
                json!({ "layers": layers, "createdAt": at(*second) })
            }).collect();
            json!({ "digest": Digest::of(&[*digest]).to_string(), "inputs": inputs, "layers": results, "chains": chains, "x-unknown": index })
        }).collect();
        // Nothing demands that what is needed comes first.
        if order {
            let last = records.len().saturating_sub(1);
            records.reverse();
            for record in &mut records {
                for input in record["inputs"].as_array_mut().unwrap().iter_mut().flat_map(|input| input.as_array_mut().unwrap()) {
                    input["link"] = json!(last as i64 - input["link"].as_i64().unwrap());
                }
            }
        }
        CacheConfig::parse(json!({ "layers": layers, "records": records, "x-unknown": {} }).to_string().as_bytes()).unwrap()
    }
}

pub(crate) fn no_limits() -> MergeLimits {
    MergeLimits { max_generations: 100, max_records: 1000, max_bytes: 1 << 20, oldest: OffsetDateTime::UNIX_EPOCH }
}

/// What is stored since `at`, and nobody has read.
pub(crate) fn unread(config: &CacheConfig, at: OffsetDateTime) -> StoredConfig<'_> {
    static NOTHING: BTreeSet<Digest> = BTreeSet::new();
    StoredConfig { config, at, hits: &NOTHING }
}

fn merged(sent: &CacheConfig, stored: &CacheConfig) -> CacheConfig {
    sent.merged(&unread(stored, OffsetDateTime::UNIX_EPOCH + HOUR), &no_limits()).config
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn pruning_drops_what_needs_a_lost_blob_and_nothing_else(config in any_config(), lost in prop::collection::btree_set(0..BLOBS.len(), 0..3)) {
        let lost: BTreeSet<Digest> = lost.into_iter().map(|blob| digest(BLOBS[blob])).collect();
        let Some(pruned) = config.without(&lost) else {
            prop_assert!(config.blobs().keys().all(|blob| !lost.contains(blob)));
            return Ok(());
        };
        prop_assert!(pruned.config.validate().is_ok());
        prop_assert!(pruned.config.blobs().keys().all(|blob| !lost.contains(blob)));
        let mut expected = meaning(&config);
        expected.values_mut().for_each(|results| results.retain(|(_, blobs)| blobs.iter().all(|blob| !lost.contains(&blob.parse().unwrap()))));
        expected.retain(|_, results| !results.is_empty());
        prop_assert_eq!(meaning(&pruned.config), expected);
        prop_assert_eq!(&pruned.config.extra, &config.extra);
        prop_assert!(pruned.config.records().iter().all(|record| record.extra.contains_key("x-unknown")));
        prop_assert_eq!(pruned.config.without(&lost), None);
        prop_assert_eq!(pruned.records, config.records().len() - pruned.config.records().len());
        prop_assert_eq!(pruned.layers, config.layers().len() - pruned.config.layers().len());
    }

    #[test]
    fn a_merge_has_a_result_of_every_key_of_both_and_prefers_what_is_sent(left in any_config(), right in any_config()) {
        let union = merged(&left, &right);
        prop_assert!(union.validate().is_ok());
        let mut expected = newest(&right);
        expected.extend(newest(&left));
        prop_assert_eq!(newest(&union), expected);
        // Every result is one that somebody exported, and no blob comes from nowhere.
        let (both, known) = (meaning(&union), [meaning(&left), meaning(&right)]);
        prop_assert!(both.iter().all(|(key, results)| results.iter().all(|result| known.iter().any(|known| known.get(key).is_some_and(|own| own.contains(result))))));
    }

    #[test]
    fn a_merge_twice_is_the_same_as_once(left in any_config(), right in any_config()) {
        let once = merged(&left, &right);
        prop_assert_eq!(left.merged(&unread(&left, OffsetDateTime::now_utc()), &no_limits()).inherited, 0);
        prop_assert_eq!(meaning(&merged(&left, &once)), meaning(&once));
        prop_assert_eq!(once.merged(&unread(&right, OffsetDateTime::now_utc()), &no_limits()).inherited, 0);
        prop_assert_eq!(merged(&left, &right).to_json(), once.to_json());
    }

    #[test]
    fn a_bounded_merge_has_all_that_was_sent(left in any_config(), right in any_config(), max_records in 1_usize..9, max_bytes in 500_u64..4000) {
        let limits = MergeLimits { max_records, max_bytes, ..no_limits() };
        let union = left.merged(&unread(&right, OffsetDateTime::now_utc()), &limits);
        prop_assert!(union.config.validate().is_ok());
        if union.inherited > 0 {
            prop_assert!(union.config.records().len() <= max_records.max(left.records().len()));
            prop_assert!(union.config.to_json().len() as u64 <= max_bytes);
        }
        let kept = newest(&union.config);
        prop_assert!(newest(&left).iter().all(|(key, time)| kept.get(key).is_some_and(|kept| kept >= time)));
    }
}

#[test]
fn the_results_exported_longest_ago_are_dropped_first() {
    let parse = |document: Bytes| CacheConfig::parse(&document).unwrap();
    let (now, made) = (OffsetDateTime::now_utc(), OffsetDateTime::UNIX_EPOCH);
    let ago = |hours: u32| now - HOUR * hours;
    let merged = |sent: &CacheConfig, stored: &CacheConfig, stored_at, oldest| {
        sent.merged(&unread(stored, stored_at), &MergeLimits { max_records: 3, oldest, ..no_limits() }).config
    };
    // One export an hour; the file's own time says when, and what is inherited carries it on.
    let first = parse(chain(&["a"], made));
    let second = merged(&parse(chain(&["b"], made)), &first, ago(3), ago(10));
    let third = merged(&parse(chain(&["c"], made)), &second, ago(2), ago(10));
    assert_eq!(meaning(&third).len(), 3);
    let keys = |config: &CacheConfig| -> BTreeSet<String> { config.records().iter().map(|record| record.digest.clone()).collect() };
    let of = |steps: &[&str]| -> BTreeSet<String> { steps.iter().map(|step| digest(step).to_string()).collect() };
    assert_eq!(keys(&merged(&parse(chain(&["d"], made)), &third, ago(1), ago(10))), of(&["b", "c", "d"]), "no room for the oldest");
    let renewed = merged(&parse(chain(&["a"], made)), &third, ago(1), ago(10));
    assert_eq!(keys(&merged(&parse(chain(&["d"], made)), &renewed, now, ago(10))), of(&["a", "c", "d"]), "exported again, a is young");
    assert_eq!(keys(&merged(&parse(chain(&["d"], made)), &third, ago(1), ago(1))), of(&["c", "d"]), "too old to be inherited");
}

#[tokio::test]
async fn an_import_is_served_what_can_be_had() {
    let bench = Bench::new(HOUR).await;
    ["a", "b", "c", "x", "y"].iter().for_each(|blob| bench.plant(blob));
    let sent = chain(&["a", "b", "c"], OffsetDateTime::UNIX_EPOCH);
    bench.put(&sent).await.unwrap();
    let import = grant(Rights::IMPORT);
    let whole = bench.cache.import_manifest(&import, &name()).await.unwrap();
    assert_eq!(whole.bytes, sent, "byte for byte");

    tokio::time::sleep(Duration::from_millis(501)).await;
    bench.store.remove(&key("b"));
    let pruned = bench.cache.import_manifest(&import, &name()).await.unwrap();
    assert_eq!(CacheConfig::parse(&pruned.bytes).unwrap(), pruned.config);
    assert_eq!(pruned.config.blobs().into_keys().collect::<Vec<_>>(), [digest("a")]);
    assert_eq!((pruned.config.records().len(), pruned.etag), (1, whole.etag));
    assert_eq!(import.usage().pruned_layers(), 2);
    assert_eq!(bench.cache.get_manifest(&import, &name()).await.unwrap().bytes, sent, "what is stored stays");
    // Half a blob is none.
    bench.store.plant(&key("a"), Bytes::from_static(b"by"), OffsetDateTime::now_utc());
    tokio::time::sleep(Duration::from_millis(501)).await;
    assert!(bench.cache.import_manifest(&import, &name()).await.unwrap().config.records().is_empty());
    let metrics = bench.metrics.encode();
    for line in ["remora_pruned_manifests_total 2", "remora_pruned_layers_total 5", "remora_pruned_records_total 5"] {
        assert!(metrics.contains(line), "{metrics}");
    }
}

#[tokio::test]
async fn what_the_store_says_nothing_of_is_not_promised() {
    let memory = MemoryStore::default();
    let faults = FaultStore::new(memory.clone());
    let bench = Bench::through(Arc::new(faults.clone()), memory, HOUR).await;
    ["a", "b"].iter().for_each(|blob| bench.plant(blob));
    let sent = chain(&["a", "b"], OffsetDateTime::UNIX_EPOCH);
    bench.put(&sent).await.unwrap();
    let import = grant(Rights::IMPORT);
    for (fault, records) in [(Fault::UnavailableLookups, 0), (Fault::None, 2)] {
        tokio::time::sleep(Duration::from_millis(501)).await;
        faults.fails_with(fault);
        let served = bench.cache.import_manifest(&import, &name()).await.unwrap();
        assert_eq!(served.config.records().len(), records, "{fault:?}");
    }
}

#[tokio::test]
async fn a_blob_that_vanished_behind_an_exporters_back_is_not_promised() {
    let bench = Bench::new(HOUR).await;
    ["a", "b"].iter().for_each(|blob| bench.plant(blob));
    bench.cache.stat_blob(&export(), &digest("b")).await.unwrap();
    bench.store.remove(&key("b"));
    bench.cache.stat_blob(&export(), &digest("b")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(501)).await;
    bench.put(&chain(&["a", "b"], OffsetDateTime::UNIX_EPOCH)).await.unwrap();
    assert_eq!(bench.stored().blobs().into_keys().collect::<Vec<_>>(), [digest("a")]);
    assert!(bench.cache.stat_blob(&export(), &digest("b")).await.is_err(), "the next export sends it");
    // What was never there is the exporter's mistake.
    let error = bench.put(&chain(&["a", "c"], OffsetDateTime::UNIX_EPOCH)).await.unwrap_err();
    assert!(matches!(error, Error::Precondition(_)), "{error}");
}

#[tokio::test]
async fn exporters_to_one_name_keep_each_others_results() {
    let bench = Bench::new(HOUR).await;
    let other = Bench::over(bench.store.clone(), HOUR).await;
    let stages: Vec<[String; 3]> = (0..8).map(|stage| ["base".to_owned(), format!("{stage}a"), format!("{stage}b")]).collect();
    stages.iter().flatten().for_each(|blob| bench.plant(blob));
    let documents: Vec<Bytes> =
        stages.iter().map(|steps| chain(&steps.each_ref().map(String::as_str), OffsetDateTime::now_utc())).collect();
    let puts = documents.iter().enumerate().map(|(index, document)| if index % 2 == 0 { bench.put(document) } else { other.put(document) });
    for put in futures_util::future::join_all(puts).await {
        put.unwrap();
    }
    let stored = meaning(&bench.stored());
    assert_eq!(stored.len(), 1 + 8 * 2);
    for document in &documents {
        let own = newest(&CacheConfig::parse(document).unwrap());
        assert!(own.keys().all(|key| stored.contains_key(key)));
    }
    // Whose blobs are gone is not inherited, nor what does not fit.
    bench.store.remove(&key("3b"));
    tokio::time::sleep(Duration::from_millis(501)).await;
    bench.put(&documents[0]).await.unwrap();
    assert_eq!(meaning(&bench.stored()).len(), 16);
    let many: Vec<String> = (0..30).map(|step| format!("many{step}")).collect();
    many.iter().for_each(|blob| bench.plant(blob));
    bench.put(&chain(&many.iter().map(String::as_str).collect::<Vec<_>>(), OffsetDateTime::now_utc())).await.unwrap();
    assert!((MAX_RECORDS - 2..=MAX_RECORDS).contains(&bench.stored().records().len()));
}

#[tokio::test]
async fn exporters_that_meet_in_the_store_lose_nothing_and_the_log_says_so() {
    let ((log, _guard), store) = (Log::capture(), MemoryStore::default());
    // As two remoras on one bucket.
    let [left, right] = [Bench::over_slow(&store).await, Bench::over_slow(&store).await];
    let steps: Vec<String> = (0..8).map(|step| format!("step {step}")).collect();
    steps.iter().for_each(|step| left.plant(step));
    let documents: Vec<Bytes> = steps.iter().map(|step| chain(&[step], OffsetDateTime::UNIX_EPOCH)).collect();
    let puts = documents.iter().enumerate().map(|(index, document)| if index % 2 == 0 { left.put(document) } else { right.put(document) });
    for put in futures_util::future::join_all(puts).await {
        put.unwrap();
    }
    assert_eq!(meaning(&left.stored()).len(), 8);
    let metrics = left.metrics.encode() + &right.metrics.encode();
    let conflicts: usize =
        metrics.lines().filter_map(|line| line.strip_prefix("remora_manifest_conflicts_total ")?.parse::<usize>().ok()).sum();
    assert!(conflicts > 0);
    assert_eq!(log.lines("another exporter published app at this moment").len(), conflicts);
}

#[tokio::test]
async fn a_put_with_a_condition_replaces_or_fails() {
    let bench = Bench::new(HOUR).await;
    ["a", "b"].iter().for_each(|blob| bench.plant(blob));
    let (first, second) = (chain(&["a"], OffsetDateTime::UNIX_EPOCH), chain(&["b"], OffsetDateTime::UNIX_EPOCH));
    let put = async |document: &Bytes, condition| bench.cache.put_manifest(&export(), &name(), document.clone(), condition).await;
    let etag = put(&first, Condition::Absent).await.unwrap();
    assert!(matches!(put(&second, Condition::Absent).await, Err(Error::Conflict(_))));
    put(&second, Condition::Matches(etag)).await.unwrap();
    assert_eq!(bench.store.bytes("manifests/app").unwrap(), second);
}

#[tokio::test]
async fn what_cannot_be_read_is_replaced() {
    let bench = Bench::new(HOUR).await;
    bench.plant("a");
    bench.store.plant("manifests/app", Bytes::from_static(b"not json"), OffsetDateTime::now_utc());
    let sent = chain(&["a"], OffsetDateTime::UNIX_EPOCH);
    bench.put(&sent).await.unwrap();
    assert_eq!(bench.store.bytes("manifests/app").unwrap(), sent);
}

#[tokio::test]
async fn a_store_without_conditional_writes_still_merges_what_one_process_puts() {
    for conditions in [Conditions::Refused, Conditions::Ignored] {
        let (log, _guard) = Log::capture();
        let bench = Bench::over_slow(&MemoryStore::new(conditions)).await;
        ["a", "b", "c"].iter().for_each(|blob| bench.plant(blob));
        let documents = ["a", "b", "c"].map(|step| chain(&[step], OffsetDateTime::UNIX_EPOCH));
        for put in futures_util::future::join_all(documents.iter().map(|document| bench.put(document))).await {
            put.unwrap();
        }
        assert_eq!(meaning(&bench.stored()).len(), 3);
        assert_eq!(bench.store.calls().puts, 4, "the store is asked once whether it knows conditions");
        assert_eq!(log.lines("bucket bucket knows no conditional writes").len(), 1);
    }
}

#[tokio::test]
async fn an_export_of_what_is_there_costs_few_calls() {
    let bench = Bench::new(HOUR).await;
    let steps: Vec<String> = (0..60).map(|step| format!("step {step}")).collect();
    steps.iter().for_each(|blob| bench.plant(blob));
    let sent = chain(&steps.iter().map(String::as_str).collect::<Vec<_>>(), OffsetDateTime::UNIX_EPOCH);
    bench.put(&sent).await.unwrap();
    tokio::time::sleep(Duration::from_millis(501)).await;
    bench.store.calls();
    for step in &steps {
        bench.cache.stat_blob(&export(), &digest(step)).await.unwrap();
    }
    bench.put(&sent).await.unwrap();
    let calls = bench.store.calls();
    assert_eq!((calls.heads, calls.gets, calls.puts, calls.lists), (0, 1, 1, 1), "{calls:?}");
    assert_eq!(bench.store.bytes("manifests/app").unwrap(), sent, "byte for byte");
}
