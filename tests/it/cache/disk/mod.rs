//! Blobs that are kept on this machine's disk: fetched once, right or not at all, and no more than may be.

mod files;
mod read_ahead;
mod reads;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use remora::cache::{BlobRead, Cache, DiskSettings, Error, Settings};
use remora::metrics::Metrics;
use remora::shutdown::Shutdown;
use remora::store::{Served, Stores};
use remora::types::{ByteRange, Digest, Grant, Scope};
use time::OffsetDateTime;

use crate::support::memory_store::MemoryStore;
use crate::support::settings::settings;

const MIB: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

/// A cache over a bucket in memory, with a disk cache in a folder that outlives it.
struct Rig {
    cache: Cache,
    store: MemoryStore,
    metrics: Metrics,
    shutdown: Shutdown,
    dir: PathBuf,
    folder: Option<tempfile::TempDir>,
    _spool: tempfile::TempDir,
}

impl Rig {
    async fn new() -> Self {
        Self::with(|_| ()).await
    }

    async fn with(adjust: impl FnOnce(&mut DiskSettings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let rig = Self::over(MemoryStore::default(), folder.path(), adjust).await;
        Self { folder: Some(folder), ..rig }
    }

    async fn over(store: MemoryStore, dir: &Path, adjust: impl FnOnce(&mut DiskSettings)) -> Self {
        let (metrics, shutdown, spool) = (Metrics::default(), Shutdown::default(), tempfile::tempdir().unwrap());
        let served = Served { store: Arc::new(store.clone()), region: None, prefix: String::new() };
        let stores = Stores::Buckets { served: BTreeMap::from([("bucket".parse().unwrap(), served)]), default: "bucket".parse().unwrap() };
        let mut disk = DiskSettings { dir: dir.to_owned(), max_size: 1 << 30, min_free: 0, read_ahead: 64 << 20, read_ahead_fetches: 4 };
        adjust(&mut disk);
        let settings = Settings { ingest_expiry: Duration::from_secs(600), disk: Some(disk), ..settings(spool.path()) };
        let cache = Cache::open(stores, settings, metrics.clone(), shutdown.clone()).await.unwrap();
        Self { cache, store, metrics, shutdown, dir: dir.to_owned(), folder: None, _spool: spool }
    }

    /// The process ends, and begins again on the same folder.
    async fn restart(mut self) -> Self {
        let (store, dir, folder) = (self.store.clone(), self.dir.clone(), self.folder.take());
        self.end().await;
        drop(self);
        let rig = Self::over(store, &dir, |_| ()).await;
        Self { folder, ..rig }
    }

    async fn end(&self) {
        self.shutdown.drain();
        assert!(self.shutdown.finish(PATIENCE).await, "a task does not end");
    }

    /// Puts a blob into the bucket, past remora.
    fn plant(&self, blob: &Bytes) -> Digest {
        let digest = Digest::of(blob);
        self.store.plant(&key(&digest), blob.clone(), OffsetDateTime::now_utc());
        digest
    }

    async fn open(&self, grant: &Grant, digest: &Digest, range: Option<ByteRange>) -> Result<BlobRead, Error> {
        self.cache.read_blob(grant, digest, range).await
    }

    async fn read(&self, digest: &Digest) -> Result<Bytes, Error> {
        collect(self.open(&operator(""), digest, None).await?).await
    }

    async fn read_range(&self, digest: &Digest, start: usize, end: usize) -> Result<Bytes, Error> {
        collect(self.open(&operator(""), digest, ByteRange::new(start as u64, end as u64)).await?).await
    }

    /// Of the bucket, since this was last asked.
    fn gets(&self) -> usize {
        self.store.calls().gets
    }

    fn metric(&self, name: &str) -> u64 {
        let (metrics, name) = (self.metrics.encode(), format!("remora_{name} "));
        metrics.lines().find_map(|line| line.strip_prefix(&name)).unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
    }

    async fn eventually(&self, what: &str, reached: impl Fn(&Self) -> bool) {
        let wait = async {
            while !reached(self) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "never: {what}\n{}", self.metrics.encode());
    }

    /// The file of a blob.
    fn file(&self, digest: &Digest) -> Option<PathBuf> {
        let name = digest.to_string().split_off(7);
        let files = std::fs::read_dir(self.dir.join(&name[..2])).ok()?;
        let mut files = files.map(|file| file.unwrap().path()).filter(|file| file.file_stem().is_some_and(|stem| *stem == *name));
        let file = files.next();
        assert!(files.next().is_none(), "{digest} is there twice");
        file
    }

    /// Which of these are on disk, as the folder shows it.
    fn kept(&self, digests: &[Digest]) -> Vec<bool> {
        digests.iter().map(|digest| self.file(digest).is_some()).collect()
    }

    fn drafts(&self) -> usize {
        std::fs::read_dir(self.dir.join("drafts")).unwrap().count()
    }
}

fn operator(prefix: &str) -> Grant {
    Grant::operator(Scope::new("bucket".parse().unwrap(), prefix).unwrap())
}

fn key(digest: &Digest) -> String {
    format!("blobs/{digest}")
}

fn blob(seed: u8, len: usize) -> Bytes {
    (0..len).map(|at| (at / 251) as u8 ^ (at % 251) as u8 ^ seed).collect()
}

async fn collect(read: BlobRead) -> Result<Bytes, Error> {
    let pieces: Vec<Bytes> = read.body.try_collect().await?;
    Ok(pieces.concat().into())
}
