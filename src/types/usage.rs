//! How much one build has used the cache: the numbers of its summary line.

use std::sync::atomic::{AtomicU64, Ordering};

/// Counters of one build, shared by all of its grants.
#[derive(Debug, Default)]
pub struct Usage {
    manifests_read: AtomicU64,
    layers_offered: AtomicU64,
    pruned_layers: AtomicU64,
    blobs_served: AtomicU64,
    bytes_served: AtomicU64,
    blobs_reused: AtomicU64,
    blobs_written: AtomicU64,
    bytes_written: AtomicU64,
    manifests_written: AtomicU64,
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {$(
        $(#[$doc])*
        #[must_use]
        pub fn $name(&self) -> u64 {
            self.$name.load(Ordering::Relaxed)
        }
    )*};
}

impl Usage {
    counters! {
        /// Manifests that were found and served.
        manifests_read,
        /// Layers that those manifests named.
        layers_offered,
        /// Layers that were left out of them, as a blob is gone.
        pruned_layers,
        /// Blob reads that were begun.
        blobs_served,
        /// Bytes of blobs sent.
        bytes_served,
        /// Blobs that an export wanted to write and the store had already.
        blobs_reused,
        /// Blobs newly stored.
        blobs_written,
        /// Their bytes.
        bytes_written,
        /// Manifests published.
        manifests_written,
    }

    /// A manifest that names `layers` layers was served.
    pub fn manifest_read(&self, layers: u64) {
        self.manifests_read.fetch_add(1, Ordering::Relaxed);
        self.layers_offered.fetch_add(layers, Ordering::Relaxed);
    }

    /// Layers were left out of a manifest that was served.
    pub fn layers_pruned(&self, layers: u64) {
        self.pruned_layers.fetch_add(layers, Ordering::Relaxed);
    }

    /// A read of a blob began.
    pub fn blob_served(&self) {
        self.blobs_served.fetch_add(1, Ordering::Relaxed);
    }

    /// `bytes` of a blob were sent.
    pub fn sent(&self, bytes: u64) {
        self.bytes_served.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A blob that an export asked for exists.
    pub fn blob_reused(&self) {
        self.blobs_reused.fetch_add(1, Ordering::Relaxed);
    }

    /// A new blob of `bytes` was stored.
    pub fn blob_written(&self, bytes: u64) {
        self.blobs_written.fetch_add(1, Ordering::Relaxed);
        self.bytes_written.fetch_add(bytes, Ordering::Relaxed);
    }

    /// A manifest was published.
    pub fn manifest_written(&self) {
        self.manifests_written.fetch_add(1, Ordering::Relaxed);
    }
}
