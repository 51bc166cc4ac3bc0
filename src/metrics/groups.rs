//! Metrics that are grouped by their subject.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::labels::{BuildLabels, Transport};

/// Builds.
#[derive(Debug)]
pub struct BuildMetrics {
    pub(super) begun: Family<BuildLabels, Counter>,
    pub(super) running: Gauge,
    pub(super) replayed: Counter,
}

impl BuildMetrics {
    /// Counts a build with an s3 cache.
    pub fn begun(&self, transport: Transport) {
        self.begun.get_or_create(&BuildLabels { transport }).inc();
    }

    /// Changes how many builds are running.
    pub fn change_running(&self, change: i64) {
        self.running.inc_by(change);
    }

    /// How many builds are running.
    #[must_use]
    pub fn running(&self) -> u64 {
        u64::try_from(self.running.get()).unwrap_or_default()
    }

    /// Counts a build that is run again without its cache.
    pub fn replayed(&self) {
        self.replayed.inc();
    }
}

/// The disk cache.
#[derive(Debug)]
pub struct DiskMetrics {
    pub(super) hits: Counter,
    pub(super) misses: Counter,
    pub(super) read: Counter,
    pub(super) fills: Counter,
    pub(super) evictions: Counter,
    pub(super) faults: Counter,
    pub(super) bytes: Gauge,
}

impl DiskMetrics {
    /// Counts a read of a blob, by whether the disk cache had it.
    pub fn lookup(&self, found: bool) {
        let counter = if found { &self.hits } else { &self.misses };
        counter.inc();
    }

    /// Counts bytes that came from the disk cache.
    pub fn read(&self, bytes: u64) {
        self.read.inc_by(bytes);
    }

    /// Counts a blob that was put into the disk cache.
    pub fn filled(&self) {
        self.fills.inc();
    }

    /// Counts a blob that had to make room for another.
    pub fn evicted(&self) {
        self.evictions.inc();
    }

    /// Counts an error of the disk, or a blob on it that is not what was written.
    pub fn failed(&self) {
        self.faults.inc();
    }

    /// Sets how many bytes are in the disk cache.
    pub fn set_bytes(&self, bytes: u64) {
        self.bytes.set(i64::try_from(bytes).unwrap_or(i64::MAX));
    }
}

/// Blobs that are fetched before a build asks for them.
#[derive(Debug)]
pub struct ReadAheadMetrics {
    pub(super) ahead: Counter,
    pub(super) wasted: Counter,
}

impl ReadAheadMetrics {
    /// Counts bytes that were fetched.
    pub fn fetched(&self, bytes: u64) {
        self.ahead.inc_by(bytes);
    }

    /// Counts bytes that were fetched and dropped without anybody asking for them.
    pub fn wasted(&self, bytes: u64) {
        self.wasted.inc_by(bytes);
    }
}

/// Manifests, as they are served and published.
#[derive(Debug)]
pub struct ManifestMetrics {
    pub(super) pruned: Counter,
    pub(super) pruned_layers: Counter,
    pub(super) pruned_records: Counter,
    pub(super) merged: Counter,
    pub(super) conflicts: Counter,
}

impl ManifestMetrics {
    /// Counts a manifest from which so much was left out.
    pub fn pruned(&self, layers: usize, records: usize) {
        self.pruned.inc();
        self.pruned_layers.inc_by(layers as u64);
        self.pruned_records.inc_by(records as u64);
    }

    /// Counts a manifest that was published with results of other exports.
    pub fn merged(&self) {
        self.merged.inc();
    }

    /// Counts a publication that conflicted with another one of the same name.
    pub fn conflicted(&self) {
        self.conflicts.inc();
    }
}
