//! `durability = "local"`: what is acknowledged before the store has it gets there, through outages, crashes and
//! a spool that is full.

mod crashes;
mod exports;
mod full_spool;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::stream;
use remora::cache::layout::Item;
use remora::cache::{Cache, Condition, Error, Incoming, JournalStatus, MergeRules, NewPart, Settings};
use remora::metrics::Metrics;
use remora::shutdown::Shutdown;
use remora::store::{Served, Store, Stores};
use remora::types::{Digest, Documents, Durability, ETag, Grant, Rights, Scope};
use tempfile::TempDir;

use crate::support::fault_store::{Fault, FaultStore};
use crate::support::memory_store::MemoryStore;
use crate::support::settings::settings;

const MIB: usize = 1 << 20;

/// A remora's folders and its bucket, which outlive its processes.
struct Fixture {
    dir: TempDir,
    store: MemoryStore,
    faults: FaultStore,
    max_spool_bytes: u64,
}

/// One process.
struct Process {
    cache: Cache,
    metrics: Metrics,
    shutdown: Shutdown,
}

impl Fixture {
    /// The bucket is away.
    fn new() -> Self {
        let store = MemoryStore::default();
        let faults = FaultStore::new(store.clone());
        faults.fails_with(Fault::Unavailable);
        Self { dir: tempfile::tempdir().unwrap(), store, faults, max_spool_bytes: 1 << 30 }
    }

    async fn start(&self) -> Process {
        self.start_over(Arc::new(self.faults.clone())).await
    }

    async fn start_over(&self, store: Arc<dyn Store>) -> Process {
        let served = Served { store, region: None, prefix: String::new() };
        let stores = Stores::Buckets { served: [("bucket".parse().unwrap(), served)].into(), default: "bucket".parse().unwrap() };
        let settings = Settings {
            journal_dir: Some(self.journal()),
            max_spool_bytes: self.max_spool_bytes,
            merge: Some(MergeRules { max_generations: 10, max_records: 100, max_age: std::time::Duration::from_secs(3600) }),
            ..settings(self.dir.path().join("spool"))
        };
        let (metrics, shutdown) = (Metrics::default(), Shutdown::default());
        let cache = Cache::open(stores, settings, metrics.clone(), shutdown.clone()).await.unwrap();
        shutdown.spawn(cache.clone().finish_journal(shutdown.clone()));
        Process { cache, metrics, shutdown }
    }

    fn journal(&self) -> PathBuf {
        self.dir.path().join("journal")
    }

    /// The paths of its files that end so, the oldest first.
    fn files(&self, ending: &str) -> Vec<PathBuf> {
        let paths = std::fs::read_dir(self.journal()).unwrap().map(|file| file.unwrap().path());
        let mut paths: Vec<_> = paths.filter(|path| path.to_str().unwrap().ends_with(ending)).collect();
        paths.sort();
        paths
    }

    fn spool_files(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("spool")).unwrap().count()
    }

    fn has(&self, content: &[u8]) -> bool {
        self.store.bytes(&blob_key(content)).is_some_and(|bytes| bytes == content)
    }

    /// The blobs that the published manifest names.
    fn published(&self) -> Vec<String> {
        let document = self.store.bytes("manifests/app").expect("a manifest");
        let document: serde_json::Value = serde_json::from_slice(&document).unwrap();
        let layers = document["layers"].as_array().cloned().unwrap_or_default();
        let mut blobs: Vec<_> = layers.iter().map(|layer| layer["blob"].as_str().unwrap().to_owned()).collect();
        blobs.sort();
        blobs
    }
}

impl Process {
    fn status(&self) -> JournalStatus {
        self.cache.status().journal
    }

    async fn put(&self, grant: &Grant, content: &[u8]) -> Result<(), Error> {
        let digest = Digest::of(content);
        self.cache.put_blob(grant, &digest, content.len() as u64, incoming(content)).await.map(drop)
    }

    async fn publish(&self, grant: &Grant, blobs: &[&[u8]]) -> Result<ETag, Error> {
        self.cache.put_manifest(grant, &"app".parse().unwrap(), manifest(blobs), Condition::None).await
    }

    async fn until(&self, reached: impl Fn(&JournalStatus) -> bool) {
        let waiting = async {
            while !reached(&self.status()) {
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let waited = tokio::time::timeout(std::time::Duration::from_secs(60), waiting).await;
        assert!(waited.is_ok(), "{:?}", self.status());
    }

    async fn until_empty(&self) {
        self.until(|status| status.entries == 0).await;
    }

    /// Ends as `kill -9` does.
    fn kill(self) {
        self.shutdown.stop();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.shutdown.stop();
    }
}

fn builder() -> remora::types::GrantBuilder {
    let scope = Scope::new("bucket".parse().unwrap(), "").unwrap();
    Grant::builder(scope, Rights::EXPORT).names(&["app".parse().unwrap()])
}

/// The grant of a build whose exports are local.
fn local() -> Grant {
    builder().durability(Durability::Local).build()
}

fn blob_key(content: &[u8]) -> String {
    format!("blobs/{}", Digest::of(content))
}

/// A manifest with a record for each blob.
fn manifest(blobs: &[&[u8]]) -> Bytes {
    let digest = |blob: &&[u8]| Digest::of(blob).to_string();
    let layer = |blob: &&[u8]| {
        serde_json::json!({"blob": digest(blob), "parent": -1, "annotations":
            {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "diffID": digest(blob), "size": blob.len(), "createdAt": "2026-01-01T00:00:00Z"}})
    };
    let record = |(index, blob): (usize, &&[u8])| serde_json::json!({"digest": digest(blob), "layers": [{"layer": index, "createdAt": "2026-01-01T00:00:00Z"}]});
    let (layers, records): (Vec<_>, Vec<_>) = (blobs.iter().map(layer).collect(), blobs.iter().enumerate().map(record).collect());
    serde_json::to_vec(&serde_json::json!({"layers": layers, "records": records})).unwrap().into()
}

fn incoming(content: &[u8]) -> Incoming {
    let pieces: Vec<_> = content.chunks(100_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    Box::pin(stream::iter(pieces))
}

fn content(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|index| ((index.wrapping_mul(2_654_435_761) >> 13) as u8).wrapping_add(seed)).collect()
}

fn sorted(blobs: &[&[u8]]) -> Vec<String> {
    let mut digests: Vec<_> = blobs.iter().map(|blob| Digest::of(blob).to_string()).collect();
    digests.sort();
    digests
}
