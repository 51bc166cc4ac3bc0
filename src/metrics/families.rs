//! Every metric, with its name and help text.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::{Metric, Registry};

use super::groups::{BuildMetrics, DiskMetrics, ManifestMetrics, ReadAheadMetrics};
use super::labels::{EndpointLabels, HedgeLabels, LookupLabels, RequestLabels, RetryLabels, StoreLabels};

#[derive(Debug)]
pub(super) struct Families {
    pub(super) requests: Family<RequestLabels, Counter>,
    pub(super) hits: Family<LookupLabels, Counter>,
    pub(super) misses: Family<LookupLabels, Counter>,
    pub(super) sent: Family<EndpointLabels, Counter>,
    pub(super) received: Family<EndpointLabels, Counter>,
    pub(super) builds: BuildMetrics,
    pub(super) from_memory: Counter,
    pub(super) manifests: ManifestMetrics,
    pub(super) touches: Counter,
    pub(super) dropped_touches: Counter,
    pub(super) tasks: Gauge,
    pub(super) breakers: Family<StoreLabels, Gauge>,
    pub(super) retries: Family<RetryLabels, Counter>,
    pub(super) allowed: Family<StoreLabels, Gauge>,
    pub(super) exports_dropped: Counter,
    pub(super) corrupt_blobs: Counter,
    pub(super) hedges: Family<HedgeLabels, Counter>,
    pub(super) journal_entries: Gauge,
    pub(super) journal_bytes: Gauge,
    pub(super) disk: DiskMetrics,
    pub(super) read_ahead: ReadAheadMetrics,
    pub(super) registry: Registry,
}

impl Default for Families {
    fn default() -> Self {
        let mut registry = Registry::with_prefix("remora");
        let version = vec![("version", env!("CARGO_PKG_VERSION"))];
        registry.register("build", "The version of remora", Info::new(version));
        let all = &mut registry;
        Self {
            requests: added(all, "requests", "Requests by endpoint, operation and how they ended"),
            hits: added(all, "hits", "Blobs and manifests that were asked for and found"),
            misses: added(all, "misses", "Blobs and manifests that were asked for and not there"),
            sent: added(all, "sent_bytes", "Bytes of blobs and manifests sent to callers"),
            received: added(all, "received_bytes", "Bytes of blobs and manifests received from callers"),
            builds: BuildMetrics {
                begun: added(all, "builds", "Builds with an s3 cache, by transport"),
                running: added(all, "builds_running", "Builds that run now"),
                replayed: added(all, "builds_replayed", "Builds that were run again without their cache, as promised layers did not come"),
            },
            from_memory: added(all, "memory_answers", "Lookups of blobs that were answered without asking the store"),
            manifests: ManifestMetrics {
                pruned: added(all, "pruned_manifests", "Manifests served or published without results that need a lost blob"),
                pruned_layers: added(all, "pruned_layers", "Layers that were left out of manifests"),
                pruned_records: added(all, "pruned_records", "Records that were left out of manifests"),
                merged: added(all, "merged_manifests", "Manifests published with results of other exports"),
                conflicts: added(all, "manifest_conflicts", "Publications that met another one of the same name"),
            },
            touches: added(all, "touches", "Blobs that were made young again in the background"),
            dropped_touches: added(all, "dropped_touches", "Blobs that were not made young again as too many waited"),
            tasks: added(all, "tasks", "Tasks of the async runtime that have not ended"),
            breakers: added(all, "store_breaker", "Whether calls to a store are made: 0 closed, 1 half open, 2 open"),
            retries: added(all, "store_retries", "Calls to a store that were made again, by reason"),
            allowed: added(all, "store_allowed_requests", "Requests to a store that may be out at once now"),
            exports_dropped: added(all, "exports_dropped", "Manifests of builds that were not published, as the store failed"),
            corrupt_blobs: added(all, "blobs_corrupt", "Stored blobs whose bytes are not those of their digest"),
            hedges: added(all, "hedged_ranges", "Slow ranges of blobs that were asked for twice, by whether the second request won"),
            journal_entries: added(all, "journal_entries", "Blobs and manifests that were acknowledged and are not in the store yet"),
            journal_bytes: added(all, "journal_bytes", "Their bytes"),
            disk: DiskMetrics {
                hits: added(all, "disk_cache_hits", "Reads of blobs that the disk cache had or was just fetching"),
                misses: added(all, "disk_cache_misses", "Reads of blobs for which the store was asked, though there is a disk cache"),
                read: added(all, "disk_cache_read_bytes", "Bytes of blobs from the disk cache, or from a fetch that others share"),
                fills: added(all, "disk_cache_fills", "Blobs that were put into the disk cache"),
                evictions: added(all, "disk_cache_evictions", "Blobs that were evicted from the disk cache to make room"),
                faults: added(all, "disk_cache_faults", "Errors of the cache disk and blobs on it that were not what was written"),
                bytes: added(all, "disk_cache_bytes", "Bytes that the disk cache takes"),
            },
            read_ahead: ReadAheadMetrics {
                ahead: added(all, "read_ahead_bytes", "Bytes of blobs fetched before anybody asked for them"),
                wasted: added(all, "read_ahead_wasted_bytes", "Bytes of those that were dropped and nobody had asked for"),
            },
            registry,
        }
    }
}

/// A metric of the registry, at its beginning.
fn added<M: Metric + Clone + Default>(registry: &mut Registry, name: &str, help: &str) -> M {
    let metric = M::default();
    registry.register(name, help, metric.clone());
    metric
}
