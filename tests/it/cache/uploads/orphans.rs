//! Uploads that a killed process left in the store, and which of them the next start aborts.

use std::sync::Arc;
use std::time::Duration;

use remora::cache::{Cache, Error};
use remora::store::{GuardedStore, S3};
use remora::types::{Digest, Key};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{PART, Sender, begin};
use crate::cache::{content, for_large_blobs};
use crate::support::cache::{Fixture, Setup, blob_key, operator};
use crate::support::fault_store::{Fault, FaultStore};
use crate::support::guarded::guarded;
use crate::support::memory_store::MemoryStore;
use crate::support::s3_config::minio_config;

#[tokio::test]
async fn uploads_that_a_killed_process_left_are_aborted_at_the_next_start() {
    let setup = Setup::over(MemoryStore::default());
    let fixture = setup.start(for_large_blobs).await;
    let bytes = content(PART * 2);
    let mut sender = begin(&fixture, Digest::of(&bytes));
    sender.send(1, &bytes[..PART]).await;
    fixture.store.wait_for_parts(1).await;
    assert_eq!(fixture.spool_files(), 1);
    let Fixture { store, cache, .. } = fixture;
    // A process that is killed drops nothing.
    std::mem::forget(cache);

    let reopened = setup.start(for_large_blobs).await.cache;
    store.wait_for_no_upload().await;
    assert!(store.keys().is_empty());
    let grant = operator();
    let mut sender = Sender::begin(&reopened, &grant, Digest::of(&bytes));
    sender.send(1, &bytes[..PART]).await;
    sender.send(2, &bytes[PART..]).await;
    sender.complete().await.unwrap();
    assert_eq!(store.bytes(&blob_key(&Digest::of(&bytes))).unwrap(), bytes);
}

/// What a process leaves that is killed after S3 began its upload and before it learned the upload's ID.
struct Orphan {
    setup: Setup,
    store: Arc<dyn GuardedStore>,
    key: Key,
}

impl Orphan {
    async fn new() -> Self {
        let config = minio_config();
        let store: Arc<dyn GuardedStore> = Arc::new(guarded(S3::connect(config.clone()).await.unwrap()));
        let faults = FaultStore::new(S3::connect(config).await.unwrap());
        faults.fails_with(Fault::SilentBegin);
        let killed = Setup::through(Arc::new(faults), MemoryStore::default());
        let Fixture { cache, grant, .. } = killed.start(for_large_blobs).await;
        let bytes = content(PART);
        let digest = Digest::of(&bytes);
        Sender::begin(&cache, &grant, digest).send(1, &bytes).await;
        let setup = Setup::through(Arc::clone(&store), MemoryStore::default()).on_folders_of(&killed);
        let left = Self { setup, store, key: Key::new("blobs/", &digest.to_string()) };
        while left.uploads().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // A process that is killed drops nothing.
        std::mem::forget(cache);
        left
    }

    async fn uploads(&self) -> Vec<String> {
        self.store.list_multipart(&self.key).await.unwrap().into_iter().map(|(id, _)| id.0).collect()
    }

    fn records(&self) -> Vec<std::path::PathBuf> {
        let files = std::fs::read_dir(self.setup.dir.path().join("spool")).unwrap().map(|file| file.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect()
    }

    /// Changes the time in the record of the upload.
    fn date(&self, asked: OffsetDateTime) {
        let [path] = &self.records()[..] else { panic!("want one record: {:?}", self.records()) };
        let mut record: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert!(record["id"].is_null(), "{record}");
        record["asked"] = asked.format(&Rfc3339).unwrap().into();
        std::fs::write(path, record.to_string()).unwrap();
    }

    /// Starts a new process, and waits until it has deleted the record.
    async fn restart(&self) -> Cache {
        let reopened = self.setup.start(for_large_blobs).await.cache;
        while !self.records().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        reopened
    }
}

#[tokio::test]
async fn an_upload_whose_id_a_killed_process_never_heard_goes_at_the_next_start() {
    let left = Orphan::new().await;
    left.restart().await;
    assert_eq!(left.uploads().await, Vec::<String>::new());
}

#[tokio::test]
async fn an_upload_of_the_same_key_from_another_time_stays() {
    for minutes in [-60, 60] {
        let left = Orphan::new().await;
        let uploads = left.uploads().await;
        left.date(OffsetDateTime::now_utc() + time::Duration::minutes(minutes));
        left.restart().await;
        assert_eq!(left.uploads().await, uploads);
    }
}

#[tokio::test]
async fn an_upload_that_the_store_refuses_to_begin_leaves_no_record() {
    let memory = MemoryStore::default();
    let faults = FaultStore::new(memory.clone());
    let fixture = Setup::through(Arc::new(faults.clone()), memory).start(for_large_blobs).await;
    faults.fails_with(Fault::UnavailableWrites);
    let bytes = content(PART);
    let mut sender = begin(&fixture, Digest::of(&bytes));
    sender.send(1, &bytes).await;
    assert!(matches!(sender.complete().await, Err(Error::Unavailable(_))));
    assert_eq!(fixture.spool_files(), 0);
}
