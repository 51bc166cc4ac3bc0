//! Manifests as builds get them: without what was lost since they were published.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::vouch::Vouching;
use crate::cache::known::{Absent, Known};
use crate::cache::read::Reads;
use crate::cache::{Manifest, Result};
use crate::metrics::Metrics;
use crate::store::Store;
use crate::types::{Digest, Grant, ManifestName};

/// Serves manifests to builds.
#[derive(Debug)]
pub(super) struct Server {
    known: Known,
    reads: Arc<Reads>,
    vouching: Vouching,
    metrics: Metrics,
}

impl Server {
    pub(super) fn new(known: Known, reads: Arc<Reads>, vouching: Vouching, metrics: Metrics) -> Self {
        Self { known, reads, vouching, metrics }
    }

    /// What a build gets of a stored manifest.
    pub(super) async fn serve(&self, grant: &Grant, name: &ManifestName, store: &dyn Store, mut manifest: Manifest) -> Result<Manifest> {
        // All of its blobs are looked up here, so the export that follows need not do it.
        self.known.begin_bulk_lookup(grant.scope(), name);
        let absent = self.known.bulk_lookup(grant.scope(), store, &manifest.config.blobs()).await;
        let mut unusable = unusable(name, absent);
        unusable.extend(self.vouching.changed(grant, name, &manifest.config).await);
        if let Some(stripped) = manifest.config.without(&unusable) {
            tracing::warn!(
                manifest.name = %name,
                "manifest {name}: {} of {} layers, {} of {} records are left out, as blobs are gone from the store or corrupt",
                stripped.layers,
                manifest.config.layers().len(),
                stripped.records,
                manifest.config.records().len()
            );
            self.metrics.manifests().pruned(stripped.layers, stripped.records);
            grant.usage().layers_pruned(stripped.layers as u64);
            manifest.bytes = stripped.config.to_json().into();
            manifest.config = stripped.config;
        }
        self.reads.expect(grant, name, &manifest.config);
        Ok(disclosed(grant, manifest))
    }
}

/// Records that a caller gets a manifest: it may read the blobs that the manifest names from now on.
pub(super) fn disclosed(grant: &Grant, manifest: Manifest) -> Manifest {
    grant.disclose(manifest.config.blobs().into_keys());
    grant.usage().manifest_read(manifest.config.layers().len() as u64);
    manifest
}

/// The blobs that a build must not count on. Those that the store says nothing of are among them: a step that is built again
/// is better than a build that fails.
fn unusable(name: &ManifestName, absent: Absent) -> BTreeSet<Digest> {
    let mut unusable = absent.missing;
    if let Some((unknown, fault)) = absent.unknown {
        tracing::warn!(manifest.name = %name, %fault, "manifest {name}: cannot tell of {} blobs whether they are stored: {fault}", unknown.len());
        unusable.extend(unknown);
    }
    unusable
}
