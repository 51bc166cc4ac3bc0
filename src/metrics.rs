//! Every metric: names, labels and help texts in one place, on a registry of the caller's.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::registry::{Metric, Registry};

/// A closed set of label values, each printed as the text beside it.
macro_rules! label_values {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident => $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
                encoder.write_str(match self { $(Self::$variant => $text,)* })
            }
        }
    };
}

label_values! {
    /// Which endpoint a number is about.
    Endpoint {
        /// The proxy of buildkitd's API.
        Control => "control",
        /// gRPC.
        Content => "content",
        /// S3.
        S3 => "s3",
    }
}

label_values! {
    /// How a request ended.
    Class {
        /// It did what was asked.
        Ok => "ok",
        /// What was asked for is not there.
        Miss => "miss",
        /// The caller may not, or asked for what cannot be.
        Refused => "refused",
        /// remora or its store failed.
        Failed => "failed",
    }
}

label_values! {
    /// What was looked up.
    Kind {
        /// A blob.
        Blob => "blob",
        /// A manifest.
        Manifest => "manifest",
    }
}

label_values! {
    /// How the bytes of a build's cache go.
    Transport {
        /// Over HTTP, through the s3 endpoint.
        Relay => "relay",
        /// Over gRPC, through the build's session.
        Session => "session",
    }
}

label_values! {
    /// Why a call to the store was made again.
    Retry {
        /// It got no answer, or the store failed.
        Unavailable => "unavailable",
        /// The store asked for less.
        Throttled => "throttled",
        /// It was signed with something that is no longer valid.
        Denied => "denied",
    }
}

label_values! {
    /// How the second request for a slow range ended.
    HedgeOutcome {
        /// It brought what the reader waited for.
        Won => "won",
        /// The first one did after all, or the reader left.
        Lost => "lost",
    }
}

/// Whether calls to a store are made; the gauge shows it as a number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// 0: they are.
    Closed,
    /// 1: the store is asked whether it answers.
    HalfOpen,
    /// 2: they fail at once.
    Open,
}

impl BreakerState {
    /// Its name, for people.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::HalfOpen => "half open",
            Self::Open => "open",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StoreLabels {
    store: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RetryLabels {
    store: String,
    reason: Retry,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    endpoint: Endpoint,
    operation: &'static str,
    class: Class,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LookupLabels {
    endpoint: Endpoint,
    kind: Kind,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndpointLabels {
    endpoint: Endpoint,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HedgeLabels {
    outcome: HedgeOutcome,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BuildLabels {
    transport: Transport,
}

/// The metrics of one process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Families>);

#[derive(Debug)]
struct Families {
    registry: Registry,
    requests: Family<RequestLabels, Counter>,
    hits: Family<LookupLabels, Counter>,
    misses: Family<LookupLabels, Counter>,
    sent: Family<EndpointLabels, Counter>,
    received: Family<EndpointLabels, Counter>,
    builds: Family<BuildLabels, Counter>,
    running: Gauge,
    replayed: Counter,
    from_memory: Counter,
    pruned_manifests: Counter,
    pruned_layers: Counter,
    pruned_records: Counter,
    merged_manifests: Counter,
    manifest_conflicts: Counter,
    touches: Counter,
    dropped_touches: Counter,
    tasks: Gauge,
    breakers: Family<StoreLabels, Gauge>,
    retries: Family<RetryLabels, Counter>,
    allowed: Family<StoreLabels, Gauge>,
    exports_dropped: Counter,
    corrupt_blobs: Counter,
    hedges: Family<HedgeLabels, Counter>,
    journal_entries: Gauge,
    journal_bytes: Gauge,
    disk: Disk,
}

#[derive(Debug)]
struct Disk {
    hits: Counter,
    misses: Counter,
    read: Counter,
    fills: Counter,
    evictions: Counter,
    faults: Counter,
    bytes: Gauge,
    ahead: Counter,
    wasted: Counter,
}

/// The metrics of one store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StoreMetrics {
    metrics: Metrics,
    store: String,
}

impl Default for Metrics {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("remora");
        let all = &mut registry;
        let requests = added(all, "requests", "Requests by endpoint, operation and how they ended");
        let hits = added(all, "hits", "Blobs and manifests that were asked for and found");
        let misses = added(all, "misses", "Blobs and manifests that were asked for and not there");
        let sent = added(all, "sent_bytes", "Bytes of blobs and manifests sent to callers");
        let received = added(all, "received_bytes", "Bytes of blobs and manifests received from callers");
        let builds = added(all, "builds", "Builds with an s3 cache, by transport");
        let running = added(all, "builds_running", "Builds that run now");
        let replayed = added(all, "builds_replayed", "Builds that were run again without their cache, as promised layers did not come");
        let from_memory = added(all, "memory_answers", "Lookups of blobs that were answered without asking the store");
        let pruned_manifests = added(all, "pruned_manifests", "Manifests served or published without results that need a lost blob");
        let pruned_layers = added(all, "pruned_layers", "Layers that were left out of manifests");
        let pruned_records = added(all, "pruned_records", "Records that were left out of manifests");
        let merged_manifests = added(all, "merged_manifests", "Manifests published with results of other exports");
        let manifest_conflicts = added(all, "manifest_conflicts", "Publications that met another one of the same name");
        let touches = added(all, "touches", "Blobs that were made young again in the background");
        let dropped_touches = added(all, "dropped_touches", "Blobs that were not made young again as too many waited");
        let tasks = added(all, "tasks", "Tasks of the async runtime that have not ended");
        let breakers = added(all, "store_breaker", "Whether calls to a store are made: 0 closed, 1 half open, 2 open");
        let retries = added(all, "store_retries", "Calls to a store that were made again, by reason");
        let allowed = added(all, "store_allowed_requests", "Requests to a store that may be out at once now");
        let exports_dropped = added(all, "exports_dropped", "Manifests of builds that were not published, as the store failed");
        let corrupt_blobs = added(all, "blobs_corrupt", "Stored blobs whose bytes are not those of their digest");
        let hedges =
            added(all, "hedged_ranges", "Ranges of blobs that were far slower than others and asked for twice, by whether the second won");
        let journal_entries = added(all, "journal_entries", "Blobs and manifests that were acknowledged and are not in the store yet");
        let journal_bytes = added(all, "journal_bytes", "Their bytes");
        let disk = Disk {
            hits: added(all, "disk_cache_hits", "Reads of blobs that the disk cache had or was just fetching"),
            misses: added(all, "disk_cache_misses", "Reads of blobs for which the store was asked, though there is a disk cache"),
            read: added(all, "disk_cache_read_bytes", "Bytes of blobs that came from the disk cache, or from a fetch that others share"),
            fills: added(all, "disk_cache_fills", "Blobs that were put into the disk cache"),
            evictions: added(all, "disk_cache_evictions", "Blobs that were evicted from the disk cache to make room"),
            faults: added(all, "disk_cache_faults", "Errors of the cache disk and blobs on it that were not what was written"),
            bytes: added(all, "disk_cache_bytes", "Bytes that the disk cache takes"),
            ahead: added(all, "read_ahead_bytes", "Bytes of blobs fetched before anybody asked for them"),
            wasted: added(all, "read_ahead_wasted_bytes", "Bytes of those that were dropped and nobody had asked for"),
        };
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "The version of remora", prometheus_client::metrics::info::Info::new(version));
        Self(Arc::new(Families {
            registry,
            requests,
            hits,
            misses,
            sent,
            received,
            builds,
            running,
            replayed,
            from_memory,
            pruned_manifests,
            pruned_layers,
            pruned_records,
            merged_manifests,
            manifest_conflicts,
            touches,
            dropped_touches,
            tasks,
            breakers,
            retries,
            allowed,
            exports_dropped,
            corrupt_blobs,
            hedges,
            journal_entries,
            journal_bytes,
            disk,
        }))
    }
}

/// A metric of the registry, at its beginning.
fn added<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}

impl Metrics {
    /// A request ended.
    pub fn request(&self, endpoint: Endpoint, operation: &'static str, class: Class) {
        self.0.requests.get_or_create(&RequestLabels { endpoint, operation, class }).inc();
    }

    /// A lookup of a blob or manifest ended.
    pub fn lookup(&self, endpoint: Endpoint, kind: Kind, found: bool) {
        let family = if found { &self.0.hits } else { &self.0.misses };
        family.get_or_create(&LookupLabels { endpoint, kind }).inc();
    }

    /// Bytes went to a caller.
    pub fn sent(&self, endpoint: Endpoint, bytes: u64) {
        self.0.sent.get_or_create(&EndpointLabels { endpoint }).inc_by(bytes);
    }

    /// Bytes came from a caller.
    pub fn received(&self, endpoint: Endpoint, bytes: u64) {
        self.0.received.get_or_create(&EndpointLabels { endpoint }).inc_by(bytes);
    }

    /// A lookup of a blob was answered without asking the store.
    pub fn answered_from_memory(&self) {
        self.0.from_memory.inc();
    }

    /// So much of a manifest was left out.
    pub fn manifest_pruned(&self, layers: usize, records: usize) {
        self.0.pruned_manifests.inc();
        self.0.pruned_layers.inc_by(layers as u64);
        self.0.pruned_records.inc_by(records as u64);
    }

    /// A manifest was published with results of other exports.
    pub fn manifest_merged(&self) {
        self.0.merged_manifests.inc();
    }

    /// A publication met another one of the same name.
    pub fn manifest_conflict(&self) {
        self.0.manifest_conflicts.inc();
    }

    /// A blob was made young again in the background.
    pub fn touched(&self) {
        self.0.touches.inc();
    }

    /// A blob was not made young again, as too many waited.
    pub fn touch_dropped(&self) {
        self.0.dropped_touches.inc();
    }

    /// A build with an s3 cache begins.
    pub fn build(&self, transport: Transport) {
        self.0.builds.get_or_create(&BuildLabels { transport }).inc();
    }

    /// A build's manifest was not published, as the store failed.
    pub fn export_dropped(&self) {
        self.0.exports_dropped.inc();
    }

    /// A stored blob turned out not to have its digest.
    pub fn blob_corrupt(&self) {
        self.0.corrupt_blobs.inc();
    }

    /// A range that was asked for twice is at its end: whether the second request won.
    pub fn range_hedged(&self, won: bool) {
        let outcome = if won { HedgeOutcome::Won } else { HedgeOutcome::Lost };
        self.0.hedges.get_or_create(&HedgeLabels { outcome }).inc();
    }

    /// So many entries of so many bytes are in the journal now.
    pub fn journal(&self, entries: usize, bytes: u64) {
        self.0.journal_entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.0.journal_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// A blob was read with a disk cache: whether that had it.
    pub fn disk_lookup(&self, found: bool) {
        let counter = if found { &self.0.disk.hits } else { &self.0.disk.misses };
        counter.inc();
    }

    /// Bytes came from the disk cache.
    pub fn disk_read(&self, bytes: u64) {
        self.0.disk.read.inc_by(bytes);
    }

    /// A blob was put into the disk cache.
    pub fn disk_filled(&self) {
        self.0.disk.fills.inc();
    }

    /// A blob had to make room for another.
    pub fn disk_evicted(&self) {
        self.0.disk.evictions.inc();
    }

    /// The disk failed, or did not hold what was written.
    pub fn disk_fault(&self) {
        self.0.disk.faults.inc();
    }

    /// So many bytes are in the disk cache now.
    pub fn disk_bytes(&self, bytes: u64) {
        self.0.disk.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// A blob was fetched ahead.
    pub fn read_ahead(&self, bytes: u64) {
        self.0.disk.ahead.inc_by(bytes);
    }

    /// Bytes that were fetched ahead are gone, and nobody had asked for them.
    pub fn read_ahead_wasted(&self, bytes: u64) {
        self.0.disk.wasted.inc_by(bytes);
    }

    /// How many builds run now.
    pub fn running_builds(&self, change: i64) {
        self.0.running.inc_by(change);
    }

    /// How many builds run now, as counted so far.
    #[must_use]
    pub fn builds_running(&self) -> u64 {
        u64::try_from(self.0.running.get()).unwrap_or_default()
    }

    /// The state of a store's breaker, by the store's URL; `None` where it has none.
    #[must_use]
    pub fn breaker_state(&self, url: &str) -> Option<BreakerState> {
        let state = self.0.breakers.get(&StoreLabels { store: url.to_owned() })?.get();
        [BreakerState::Closed, BreakerState::HalfOpen, BreakerState::Open].into_iter().find(|known| *known as i64 == state)
    }

    /// A build is run again without its cache.
    pub fn build_replayed(&self) {
        self.0.replayed.inc();
    }

    /// Those of a store, by its URL.
    #[must_use]
    pub fn store(&self, url: String) -> StoreMetrics {
        let metrics = StoreMetrics { metrics: self.clone(), store: url };
        metrics.breaker(BreakerState::Closed);
        metrics
    }

    /// All of them, in Prometheus' text format.
    #[must_use]
    pub fn encode(&self) -> String {
        // Outside a runtime, as in a unit test, there are none.
        let tasks = tokio::runtime::Handle::try_current().map_or(0, |runtime| runtime.metrics().num_alive_tasks());
        self.0.tasks.set(i64::try_from(tasks).unwrap_or(i64::MAX));
        let mut text = String::new();
        if prometheus_client::encoding::text::encode(&mut text, &self.0.registry).is_err() {
            text.clear();
            let _ = write!(text, "# could not be encoded");
        }
        text
    }
}

impl StoreMetrics {
    /// The breaker's state is this now.
    pub fn breaker(&self, state: BreakerState) {
        self.metrics.0.breakers.get_or_create(&self.labels()).set(state as i64);
    }

    /// A call was made again.
    pub fn retried(&self, reason: Retry) {
        self.metrics.0.retries.get_or_create(&RetryLabels { store: self.store.clone(), reason }).inc();
    }

    /// So many requests may be out at once now.
    pub fn allowed(&self, requests: usize) {
        self.metrics.0.allowed.get_or_create(&self.labels()).set(i64::try_from(requests).unwrap_or(i64::MAX));
    }

    fn labels(&self) -> StoreLabels {
        StoreLabels { store: self.store.clone() }
    }
}
