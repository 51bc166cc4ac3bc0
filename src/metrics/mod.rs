//! What remora counts, as metrics of Prometheus. Each [`Metrics`] has a registry of its own.

mod families;
mod groups;
mod labels;

use std::fmt::Write as _;
use std::sync::Arc;

pub use self::groups::{BuildMetrics, DiskMetrics, ManifestMetrics, ReadAheadMetrics};
pub use self::labels::{BreakerState, Class, Endpoint, HedgeOutcome, Kind, Retry, Transport};

use self::families::Families;
use self::labels::{EndpointLabels, HedgeLabels, LookupLabels, RequestLabels, RetryLabels, StoreLabels};

/// The metrics of one process. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Metrics(Arc<Families>);

/// The metrics of one store. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StoreMetrics {
    metrics: Metrics,
    store: String,
}

impl Metrics {
    /// Counts a request that has ended.
    pub fn request(&self, endpoint: Endpoint, operation: &'static str, class: Class) {
        self.0.requests.get_or_create(&RequestLabels { endpoint, operation, class }).inc();
    }

    /// Counts a lookup of a blob or manifest that has ended.
    pub fn lookup(&self, endpoint: Endpoint, kind: Kind, found: bool) {
        let family = if found { &self.0.hits } else { &self.0.misses };
        family.get_or_create(&LookupLabels { endpoint, kind }).inc();
    }

    /// Counts bytes that went to a caller.
    pub fn sent(&self, endpoint: Endpoint, bytes: u64) {
        self.0.sent.get_or_create(&EndpointLabels { endpoint }).inc_by(bytes);
    }

    /// Counts bytes that came from a caller.
    pub fn received(&self, endpoint: Endpoint, bytes: u64) {
        self.0.received.get_or_create(&EndpointLabels { endpoint }).inc_by(bytes);
    }

    /// Counts a lookup of a blob that was answered without asking the store.
    pub fn answered_from_memory(&self) {
        self.0.from_memory.inc();
    }

    /// The metrics of builds.
    #[must_use]
    pub fn builds(&self) -> &BuildMetrics {
        &self.0.builds
    }

    /// The metrics of the disk cache.
    #[must_use]
    pub fn disk(&self) -> &DiskMetrics {
        &self.0.disk
    }

    /// The metrics of blobs that are fetched before a build asks for them.
    #[must_use]
    pub fn read_ahead(&self) -> &ReadAheadMetrics {
        &self.0.read_ahead
    }

    /// The metrics of manifests.
    #[must_use]
    pub fn manifests(&self) -> &ManifestMetrics {
        &self.0.manifests
    }

    /// Counts a blob that was made young again in the background.
    pub fn touched(&self) {
        self.0.touches.inc();
    }

    /// Counts a blob that was not made young again because too many were waiting.
    pub fn touch_dropped(&self) {
        self.0.dropped_touches.inc();
    }

    /// Counts a build's manifest that was not published because the store failed.
    pub fn export_dropped(&self) {
        self.0.exports_dropped.inc();
    }

    /// Counts a stored blob that turned out not to match its digest.
    pub fn blob_corrupt(&self) {
        self.0.corrupt_blobs.inc();
    }

    /// Counts a range that was requested twice, by whether the second request won.
    pub fn range_hedged(&self, won: bool) {
        let outcome = if won { HedgeOutcome::Won } else { HedgeOutcome::Lost };
        self.0.hedges.get_or_create(&HedgeLabels { outcome }).inc();
    }

    /// Sets how many entries, of how many bytes together, are in the journal.
    pub fn journal(&self, entries: usize, bytes: u64) {
        self.0.journal_entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        self.0.journal_bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }

    /// The state of a store's breaker, by the store's URL; `None` where it has none.
    #[must_use]
    pub fn breaker_state(&self, url: &str) -> Option<BreakerState> {
        let state = self.0.breakers.get(&StoreLabels { store: url.to_owned() })?.get();
        [BreakerState::Closed, BreakerState::HalfOpen, BreakerState::Open].into_iter().find(|known| *known as i64 == state)
    }

    /// The metrics of the store with this URL.
    #[must_use]
    pub fn store(&self, url: String) -> StoreMetrics {
        let metrics = StoreMetrics { metrics: self.clone(), store: url };
        metrics.breaker(BreakerState::Closed);
        metrics
    }

    /// All metrics in Prometheus' text format.
    #[must_use]
    pub fn encode(&self) -> String {
        // Outside a runtime, for example in a unit test, there are no tasks.
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
    /// Sets the state of the breaker.
    pub fn breaker(&self, state: BreakerState) {
        self.metrics.0.breakers.get_or_create(&self.labels()).set(state as i64);
    }

    /// Counts a call that was retried.
    pub fn retried(&self, reason: Retry) {
        self.metrics.0.retries.get_or_create(&RetryLabels { store: self.store.clone(), reason }).inc();
    }

    /// Sets how many requests may be in flight at once.
    pub fn allowed(&self, requests: usize) {
        self.metrics.0.allowed.get_or_create(&self.labels()).set(i64::try_from(requests).unwrap_or(i64::MAX));
    }

    fn labels(&self) -> StoreLabels {
        StoreLabels { store: self.store.clone() }
    }
}
