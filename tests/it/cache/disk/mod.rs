//! Blobs that are kept on this machine's disk: each is fetched once, served whole or not at all, and kept within
//! bounds.

mod files;
mod read_ahead;
mod reads;

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use remora::cache::{BlobRead, DiskSettings, Error, Settings};
use remora::types::{ByteRange, Digest, Grant};

use crate::support::cache::{Fixture, Setup, eventually};
use crate::support::memory_store::MemoryStore;

const MIB: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(30);

/// A cache with a disk cache in a folder that outlives it.
struct Rig {
    fixture: Fixture,
    dir: PathBuf,
    folder: Option<tempfile::TempDir>,
}

impl Deref for Rig {
    type Target = Fixture;

    fn deref(&self) -> &Fixture {
        &self.fixture
    }
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
        let mut disk = DiskSettings { dir: dir.to_owned(), max_size: 1 << 30, min_free: 0, read_ahead: 64 << 20, read_ahead_fetches: 4 };
        adjust(&mut disk);
        let adjust = |settings: &mut Settings| {
            settings.ingest_expiry = Duration::from_secs(600);
            settings.disk = Some(disk);
        };
        let fixture = Setup::over(store).start(adjust).await;
        Self { fixture, dir: dir.to_owned(), folder: None }
    }

    /// The process ends, and begins again on the same folder.
    async fn restart(mut self) -> Self {
        let store = self.store.clone();
        let dir = self.dir.clone();
        let folder = self.folder.take();
        self.end().await;
        drop(self);
        let rig = Self::over(store, &dir, |_| ()).await;
        Self { folder, ..rig }
    }

    async fn end(&self) {
        self.shutdown.drain();
        assert!(self.shutdown.finish(PATIENCE).await, "a task does not end");
    }

    async fn open(&self, grant: &Grant, digest: &Digest, range: Option<ByteRange>) -> Result<BlobRead, Error> {
        self.cache.blobs().read(grant, digest, range).await
    }

    async fn read(&self, digest: &Digest) -> Result<Bytes, Error> {
        self.fixture.read(digest, None).await
    }

    async fn read_range(&self, digest: &Digest, start: usize, end: usize) -> Result<Bytes, Error> {
        self.fixture.read(digest, ByteRange::new(start as u64, end as u64)).await
    }

    /// How many GETs the bucket has had since this was last called.
    fn gets(&self) -> usize {
        self.store.calls().gets
    }

    async fn eventually(&self, what: &str, reached: impl Fn(&Self) -> bool) {
        eventually(what, || reached(self)).await;
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

fn blob(seed: u8, len: usize) -> Bytes {
    (0..len).map(|at| (at / 251) as u8 ^ (at % 251) as u8 ^ seed).collect()
}
