//! `durability = "local"`: what is acknowledged before the store has it gets there, through outages, crashes and
//! a spool that is full.

mod crashes;
mod exports;
mod full_spool;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use remora::cache::layout::Item;
use remora::cache::{Cache, Condition, Error, JournalStatus, MergeRules, NewPart, Settings};
use remora::metrics::Metrics;
use remora::shutdown::Shutdown;
use remora::types::{Digest, Documents, Durability, ETag, Grant, GrantBuilder, Rights};

use crate::support::cache::{Fixture, HOUR, Setup, blob_key, build, content, eventually, incoming, name};
use crate::support::fault_store::{Fault, FaultStore};
use crate::support::memory_store::MemoryStore;

const MIB: usize = 1 << 20;

/// The folders and the bucket, which outlive the processes.
struct Machine {
    setup: Setup,
    store: MemoryStore,
    faults: FaultStore,
    max_spool_bytes: u64,
}

/// One process on a [`Machine`].
struct Process {
    cache: Cache,
    metrics: Metrics,
    shutdown: Shutdown,
}

impl Machine {
    /// A machine whose bucket does not answer yet.
    fn new() -> Self {
        let store = MemoryStore::default();
        let faults = FaultStore::new(store.clone());
        faults.fails_with(Fault::Unavailable);
        Self { setup: Setup::through(Arc::new(faults.clone()), store.clone()), store, faults, max_spool_bytes: 1 << 30 }
    }

    async fn start(&self) -> Process {
        self.start_on(&self.setup).await
    }

    /// Starts a process whose calls go to the bucket past the faults.
    async fn start_unharmed(&self) -> Process {
        self.start_on(&Setup::over(self.store.clone()).on_folders_of(&self.setup)).await
    }

    async fn start_on(&self, setup: &Setup) -> Process {
        let adjust = |settings: &mut Settings| {
            settings.journal_dir = Some(self.journal());
            settings.max_spool_bytes = self.max_spool_bytes;
            settings.merge = Some(MergeRules { max_generations: 10, max_records: 100, max_age: HOUR });
        };
        let Fixture { cache, metrics, shutdown, .. } = setup.start(adjust).await;
        shutdown.spawn(cache.background().finish_journal(shutdown.clone()));
        Process { cache, metrics, shutdown }
    }

    fn journal(&self) -> PathBuf {
        self.setup.dir.path().join("journal")
    }

    /// The journal's files whose names end with `ending`, the oldest first.
    fn files(&self, ending: &str) -> Vec<PathBuf> {
        let paths = std::fs::read_dir(self.journal()).unwrap().map(|file| file.unwrap().path());
        let mut paths: Vec<_> = paths.filter(|path| path.to_str().unwrap().ends_with(ending)).collect();
        paths.sort();
        paths
    }

    fn spool_files(&self) -> usize {
        std::fs::read_dir(self.setup.dir.path().join("spool")).unwrap().count()
    }

    fn has(&self, content: &[u8]) -> bool {
        self.store.bytes(&key(content)).is_some_and(|bytes| bytes == content)
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
        self.cache.blobs().put(grant, &digest, content.len() as u64, incoming(content)).await.map(drop)
    }

    /// Writes a blob as a session does, in messages of 1 MiB.
    async fn send(&self, grant: &Grant, blob: &Bytes) {
        let digest = Digest::of(blob);
        let mut ingest = self.cache.ingests().open_writer(grant, "layer", blob.len() as u64, Some(digest)).await.unwrap();
        for start in (0..blob.len()).step_by(MIB) {
            ingest.write(start as u64, blob.slice(start..start + MIB)).await.unwrap();
        }
        ingest.commit(Some(blob.len() as u64), Some(digest), BTreeMap::new()).await.unwrap();
    }

    async fn publish(&self, grant: &Grant, blobs: &[&[u8]]) -> Result<ETag, Error> {
        self.cache.manifests().publish(grant, &name(), manifest(blobs), Condition::None).await
    }

    async fn until(&self, reached: impl Fn(&JournalStatus) -> bool) {
        eventually("the journal does not come to that", || reached(&self.status())).await;
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

fn builder() -> GrantBuilder {
    build(Rights::EXPORT)
}

/// The grant of a build whose exports are local.
fn local() -> Grant {
    builder().durability(Durability::Local).build()
}

fn key(content: &[u8]) -> String {
    blob_key(&Digest::of(content))
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

fn sorted(blobs: &[&[u8]]) -> Vec<String> {
    let mut digests: Vec<_> = blobs.iter().map(|blob| Digest::of(blob).to_string()).collect();
    digests.sort();
    digests
}
