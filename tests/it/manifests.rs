//! Manifests as builds get and put them: pruned of what is gone, merged with what others put.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use remora::cache::{Cache, Settings};
use remora::metrics::Metrics;
use remora::store::{Served, Stores};
use remora::types::Digest;
use serde_json::{Value, json};

use crate::support::memory_store::MemoryStore;

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
        let (metrics, spool) = (Metrics::default(), tempfile::tempdir().unwrap());
        let served = Served { store: Arc::new(store.clone()), region: None, prefix: String::new() };
        let stores = Stores::Buckets { served: BTreeMap::from([("bucket".parse().unwrap(), served)]), default: "bucket".parse().unwrap() };
        let settings = Settings {
            spool_dir: spool.path().to_owned(),
            max_manifest_bytes: 8 << 20,
            max_open_ingests: 4,
            ingest_expiry: Duration::from_secs(3600),
            presence_max_age,
        };
        let cache = Cache::open(stores, settings, metrics.clone()).await.unwrap();
        Self { cache, store, metrics, _spool: spool }
    }
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
