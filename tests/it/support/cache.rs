//! A cache in this process over a bucket in memory: the fixture of all tests of the cache.
//!
//! A [`Setup`] is what outlives a process, a [`Fixture`] is one process on it. The bucket, the scope and the name in
//! it are the same in all tests, as what a test is about never depends on them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use remora::cache::{BlobRead, Cache, CacheConfig, Condition, Error, Incoming, MergeRules, Settings};
use remora::metrics::Metrics;
use remora::shutdown::Shutdown;
use remora::store::{GuardedStore, Served, Stores};
use remora::types::{BucketName, ByteRange, Digest, Grant, GrantBuilder, ManifestName, Rights, Scope};
use tempfile::TempDir;
use time::OffsetDateTime;

use super::memory_store::MemoryStore;
use super::settings::settings;

pub(crate) const HOUR: Duration = Duration::from_secs(3600);
/// Longer than a lookup that was just made stands for the next one.
pub(crate) const PAST_LOOKUP: Duration = Duration::from_millis(501);
/// What a manifest may keep where exports are merged.
pub(crate) const MAX_RECORDS: usize = 40;
/// Far longer than anything takes that comes at all.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a cache is started on, and can be started on again.
#[derive(Clone)]
pub(crate) struct Setup {
    pub(crate) dir: Arc<TempDir>,
    pub(crate) store: MemoryStore,
    /// What is between the cache and the bucket. `None`: a directory in place of the bucket.
    front: Option<Arc<dyn GuardedStore>>,
}

/// A cache, and what it works on.
pub(crate) struct Fixture {
    pub(crate) cache: Cache,
    /// The bucket itself, past what a test has put in front of it.
    pub(crate) store: MemoryStore,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: Shutdown,
    /// Has the spool in it.
    pub(crate) dir: Arc<TempDir>,
    /// An operator's.
    pub(crate) grant: Grant,
}

impl Setup {
    /// A bucket that another cache may have, too.
    pub(crate) fn over(store: MemoryStore) -> Self {
        Self::through(Arc::new(store.clone()), store)
    }

    /// A bucket that is reached through `front`.
    pub(crate) fn through(front: Arc<dyn GuardedStore>, store: MemoryStore) -> Self {
        Self { dir: Arc::new(tempfile::tempdir().unwrap()), store, front: Some(front) }
    }

    /// The folder `store`, where every folder is a bucket.
    pub(crate) fn directory() -> Self {
        Self { dir: Arc::new(tempfile::tempdir().unwrap()), store: MemoryStore::default(), front: None }
    }

    /// With the folders of another one.
    pub(crate) fn on_folders_of(self, other: &Self) -> Self {
        Self { dir: Arc::clone(&other.dir), ..self }
    }

    /// Starts a process with the settings of most tests, but for what `adjust` changes.
    pub(crate) async fn start(&self, adjust: impl FnOnce(&mut Settings)) -> Fixture {
        let bucket: BucketName = "bucket".parse().unwrap();
        let stores = match self.front.clone() {
            Some(store) => {
                let served = Served { store, region: None, prefix: String::new() };
                Stores::Buckets { served: [(bucket.clone(), served)].into(), default: bucket }
            }
            None => Stores::Directory { root: self.dir.path().join("store"), default: bucket },
        };
        let mut settings = settings(self.dir.path().join("spool"));
        adjust(&mut settings);
        let metrics = Metrics::default();
        let shutdown = Shutdown::default();
        let cache = Cache::open(stores, settings, metrics.clone(), shutdown.clone()).await.unwrap();
        Fixture { cache, store: self.store.clone(), metrics, shutdown, dir: Arc::clone(&self.dir), grant: operator() }
    }

    /// Starts a process that merges the exports of a name.
    pub(crate) async fn start_merging(&self, presence_max_age: Duration) -> Fixture {
        let merge = MergeRules { max_generations: 10, max_records: MAX_RECORDS, max_age: HOUR };
        self.start(|settings| {
            settings.presence_max_age = presence_max_age;
            settings.merge = Some(merge);
        })
        .await
    }
}

impl Fixture {
    /// Over an empty bucket.
    pub(crate) async fn new(adjust: impl FnOnce(&mut Settings)) -> Self {
        Setup::over(MemoryStore::default()).start(adjust).await
    }

    /// Over an empty bucket, and one that merges the exports of a name.
    pub(crate) async fn merging(presence_max_age: Duration) -> Self {
        Setup::over(MemoryStore::default()).start_merging(presence_max_age).await
    }

    /// Puts a blob into the bucket, past the cache.
    pub(crate) fn plant(&self, blob: &Bytes) -> Digest {
        let digest = Digest::of(blob);
        self.store.plant(&blob_key(&digest), blob.clone(), OffsetDateTime::now_utc());
        digest
    }

    /// Puts five bytes into the place of a blob, where nobody reads them.
    pub(crate) fn plant_stand_in(&self, digest: &Digest) {
        self.store.plant(&blob_key(digest), Bytes::from_static(b"bytes"), OffsetDateTime::now_utc());
    }

    /// Writes a blob as an operator.
    pub(crate) async fn put(&self, content: &[u8]) -> Digest {
        let digest = Digest::of(content);
        self.cache.blobs().put(&self.grant, &digest, content.len() as u64, incoming(content)).await.unwrap();
        digest
    }

    /// Whether the bucket has a blob of these bytes.
    pub(crate) fn has(&self, content: &[u8]) -> bool {
        self.store.bytes(&blob_key(&Digest::of(content))).is_some_and(|bytes| bytes == content)
    }

    /// Reads a blob as an operator.
    pub(crate) async fn read(&self, digest: &Digest, range: Option<ByteRange>) -> Result<Bytes, Error> {
        collect(self.cache.blobs().read(&self.grant, digest, range).await?).await
    }

    /// Publishes a manifest as a build.
    pub(crate) async fn publish(&self, document: &Bytes) -> Result<(), Error> {
        let grant = build(Rights::EXPORT).build();
        self.cache.manifests().publish(&grant, &name(), document.clone(), Condition::None).await.map(drop)
    }

    /// What the bucket has under the name.
    pub(crate) fn published(&self) -> CacheConfig {
        CacheConfig::parse(&self.store.bytes("manifests/app").unwrap()).unwrap()
    }

    pub(crate) fn spool_files(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("spool")).unwrap().count()
    }

    /// The value of a metric, by its name behind `remora_`.
    pub(crate) fn metric(&self, name: &str) -> u64 {
        let metrics = self.metrics.encode();
        let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("remora_{name} ")));
        line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
    }
}

/// Where all tests have their blobs.
pub(crate) fn scope() -> Scope {
    scope_below("")
}

pub(crate) fn scope_below(prefix: &str) -> Scope {
    Scope::new("bucket".parse().unwrap(), prefix).unwrap()
}

pub(crate) fn operator() -> Grant {
    Grant::operator(scope())
}

/// The grant of a build for the name of all tests.
pub(crate) fn build(rights: Rights) -> GrantBuilder {
    Grant::builder(scope(), rights).names(&[name()])
}

/// The name of all tests.
pub(crate) fn name() -> ManifestName {
    "app".parse().unwrap()
}

pub(crate) fn blob_key(digest: &Digest) -> String {
    format!("blobs/{digest}")
}

/// Bytes that no part of them repeats.
pub(crate) fn content(len: usize, seed: u8) -> Vec<u8> {
    (0..len).map(|index| ((index.wrapping_mul(2_654_435_761) >> 13) as u8).wrapping_add(seed)).collect()
}

/// In chunks, as a network brings them.
pub(crate) fn incoming(content: &[u8]) -> Incoming {
    let chunks: Vec<_> = content.chunks(100_000).map(|chunk| Ok(Bytes::copy_from_slice(chunk))).collect();
    stream::iter(chunks).boxed()
}

pub(crate) async fn collect(read: BlobRead) -> Result<Bytes, Error> {
    let chunks: Vec<Bytes> = read.body.try_collect().await?;
    Ok(chunks.concat().into())
}

/// Waits for something that comes by itself.
pub(crate) async fn eventually(what: &str, reached: impl Fn() -> bool) {
    let wait = async {
        while !reached() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "never: {what}");
}
