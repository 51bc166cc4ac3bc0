//! The disk cache: blobs that were read from a bucket, kept on this machine's disk.
//!
//! It is a folder with one file for each blob ([`file`]), named by the digest and by a number that no other file of the blob
//! has. The index is made anew from the names at each start. The cache is bounded in bytes and by what the disk must have
//! free: the blob that was read the longest ago goes first. In: blocks of a blob that is being fetched ([`fill`]). Out: blocks,
//! for readers of whole blobs and for those that follow a fill ([`follower`]). Nothing here asks a store: that is for `read`.
//! `fill` and `follower` use each other, since a follower is half of a fill: it leaves the fill when it is dropped.

mod file;
mod fill;
mod follower;
mod index;
mod open;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::metrics::Metrics;
use crate::transfer::Hold;
use crate::types::Digest;

pub(super) use file::{BLOCK_BYTES, Draft, Stored};
pub(super) use fill::{End, Fill, Fills};
pub(super) use follower::{Fault, Follower};
pub(super) use index::DiskEntry;
pub(super) use open::open;

use index::Index;

/// The folder of files that are not whole yet.
const DRAFTS: &str = "drafts";
/// The file that the process which uses the folder has locked.
const LOCK: &str = "lock";
/// What the names of files leave out of a digest.
const ALGORITHM: &str = "sha256:";
/// How long nothing is written after an error or without room: each reader goes to the bucket meanwhile.
const PAUSE: Duration = Duration::from_secs(30);

/// Where the disk cache is, and how much it may take.
#[derive(Debug, Clone)]
pub struct DiskSettings {
    /// The folder, which nobody else uses. Made when missing.
    pub dir: PathBuf,
    /// Bytes that it may take.
    pub max_size: u64,
    /// Bytes that its file system keeps free.
    pub min_free: u64,
    /// Bytes that may be fetched and not yet read, all together. 0: there is no read-ahead.
    pub read_ahead: u64,
    /// Fetches that may be under way when read-ahead begins one, that one included.
    pub read_ahead_fetches: usize,
}

/// The folder and what is known of it.
#[derive(Debug)]
pub(super) struct Disk {
    settings: DiskSettings,
    index: Mutex<Index>,
    /// Until when nothing is written.
    paused: Mutex<Option<Instant>>,
    metrics: Metrics,
    pub(super) fills: Fills,
    _lock: File,
}

/// Bytes set aside for a file; free again when dropped.
#[derive(Debug)]
pub(super) struct Room {
    disk: Arc<Disk>,
    bytes: u64,
}

impl Disk {
    /// Opens the folder, clears away what was not finished, and finds what is there. Blocks.
    ///
    /// # Errors
    /// Where the folder cannot be read or written, or another process uses it.
    pub(super) fn open(settings: DiskSettings, metrics: Metrics) -> io::Result<Self> {
        fs::create_dir_all(&settings.dir)?;
        drop(File::create(settings.dir.join(LOCK))?);
        let lock = File::open(settings.dir.join(LOCK))?;
        lock.try_lock()?;
        let drafts = settings.dir.join(DRAFTS);
        fs::create_dir_all(&drafts)?;
        for draft in fs::read_dir(&drafts)? {
            fs::remove_file(draft?.path())?;
        }
        let found = found(&settings.dir)?;
        let disk = Self { settings, index: Mutex::default(), paused: Mutex::default(), metrics, fills: Fills::default(), _lock: lock };
        for entry in found {
            let older = disk.index().insert(Arc::new(entry));
            older.into_iter().for_each(|older| disk.delete(&older));
        }
        disk.trim();
        Ok(disk)
    }

    pub(super) fn settings(&self) -> &DiskSettings {
        &self.settings
    }

    pub(super) fn contains(&self, digest: &Digest) -> bool {
        self.index().contains(digest)
    }

    /// A blob on disk, for a reader. One that is not what it should be is dropped. Blocks.
    pub(super) fn get(&self, digest: &Digest) -> Option<(Arc<DiskEntry>, Stored)> {
        let entry = self.index().get(digest)?;
        match Stored::open(&self.path(&entry), digest) {
            Ok(stored) => {
                entry.end_read_ahead();
                stored.used_now();
                Some((entry, stored))
            }
            Err(error) => {
                self.unreadable(&entry, &error);
                None
            }
        }
    }

    /// Whether a blob of `size` bytes is worth a try.
    pub(super) fn may_take(&self, size: u64) -> bool {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        if paused.is_some_and(|until| Instant::now() >= until) {
            *paused = None;
        }
        paused.is_none() && file::file_bytes(size) <= self.settings.max_size
    }

    /// Begins the file of a blob of `size` bytes, for which others are evicted; `None`: there is no room,
    /// or the disk fails. Blocks.
    pub(super) fn begin(self: &Arc<Self>, size: u64) -> Option<(Room, Draft)> {
        let room = if self.may_take(size) { self.reserve(file::file_bytes(size))? } else { return None };
        match Draft::create(self.draft()) {
            Ok(draft) => Some((room, draft)),
            Err(error) => {
                self.unwritable(&error);
                None
            }
        }
    }

    /// Keeps what was written: its bytes have that digest. `ahead` is its part of the read-ahead budget, where nobody has asked
    /// for the blob. Blocks.
    pub(super) fn keep(&self, digest: &Digest, draft: Draft, room: &Room, ahead: Option<Hold>) -> Option<Arc<DiskEntry>> {
        let entry = Arc::new(DiskEntry::new(*digest, rand::random(), room.bytes, ahead));
        if let Err(error) = draft.finish(&self.path(&entry), digest) {
            self.unwritable(&error);
            return None;
        }
        let replaced = self.index().insert(Arc::clone(&entry));
        if let Some(replaced) = replaced {
            self.delete(&replaced);
        }
        self.metrics.disk().filled();
        self.show();
        Some(entry)
    }

    /// Drops a blob, also one that is being fetched.
    pub(super) fn forget(&self, digest: &Digest) {
        self.fills.discard(digest);
        self.take_out(|index| index.remove(digest));
    }

    /// Drops a blob that cannot be read back.
    pub(super) fn unreadable(&self, entry: &Arc<DiskEntry>, error: &io::Error) {
        let digest = entry.digest;
        if self.take_out(|index| index.remove_this(entry)) {
            self.metrics.disk().failed();
            tracing::warn!(blob.digest = %digest, %error, "disk cache: blob {digest} cannot be read and is dropped: {error}");
        }
    }

    /// Counts an error of the disk, and writes nothing for a while.
    pub(super) fn unwritable(&self, error: &io::Error) {
        self.metrics.disk().failed();
        self.pause(&error.to_string());
    }

    /// Counts what was fetched ahead and never read: the process ends.
    pub(super) fn close(&self) {
        let wasted: u64 = self.index().entries().filter(|entry| entry.end_read_ahead()).map(|entry| entry.bytes).sum();
        if wasted > 0 {
            self.metrics.read_ahead().wasted(wasted);
            tracing::info!("read-ahead: {wasted} bytes were fetched that nobody has read");
        }
    }

    fn pause(&self, why: &str) {
        let until = Instant::now() + PAUSE;
        let before = self.paused.lock().unwrap_or_else(PoisonError::into_inner).replace(until);
        // There is one line for all who meet the error at once.
        if before.is_none_or(|before| before < Instant::now()) {
            let dir = self.settings.dir.display();
            tracing::warn!("disk cache: nothing is written to {dir} for {PAUSE:?}, and blobs are read from their buckets: {why}");
        }
    }

    fn reserve(self: &Arc<Self>, bytes: u64) -> Option<Room> {
        loop {
            // What other files have of their reservation already counts twice here, which is on the safe side.
            let free = match free_bytes(&self.settings.dir) {
                Ok(free) => free,
                Err(error) => {
                    self.unwritable(&error);
                    return None;
                }
            };
            {
                let mut index = self.index();
                let fits = index.taken() + bytes <= self.settings.max_size;
                let floor = self.settings.min_free;
                if fits && free >= floor.saturating_add(index.reserved).saturating_add(bytes) {
                    index.reserved += bytes;
                    return Some(Room { disk: Arc::clone(self), bytes });
                }
            }
            if !self.evict() {
                self.pause(&format!(
                    "no room for {bytes} bytes; {free} are free, of which disk_cache.min_free keeps {}",
                    self.settings.min_free
                ));
                return None;
            }
        }
    }

    /// Evicts blobs until the cache is within its bounds: these may be lower than they were, and others use the disk. Blocks.
    pub(super) fn trim(&self) {
        let over = || self.index().bytes() > self.settings.max_size;
        let scarce = || free_bytes(&self.settings.dir).is_ok_and(|free| free < self.settings.min_free);
        while (over() || scarce()) && self.evict() {}
        self.show();
    }

    /// Evicts a blob that nobody reads. Returns whether there was one.
    fn evict(&self) -> bool {
        let evicted = self.take_out(Index::remove_oldest);
        if evicted {
            self.metrics.disk().evicted();
        }
        evicted
    }

    /// Takes an entry out of the index and deletes its file. Returns whether there was one.
    fn take_out(&self, take: impl FnOnce(&mut Index) -> Option<Arc<DiskEntry>>) -> bool {
        let taken = take(&mut self.index());
        taken.inspect(|entry| self.delete(entry)).is_some()
    }

    fn delete(&self, entry: &DiskEntry) {
        if let Err(error) = fs::remove_file(self.path(entry))
            && error.kind() != io::ErrorKind::NotFound
        {
            self.unwritable(&error);
        }
        self.account(entry);
        self.show();
    }

    fn account(&self, entry: &DiskEntry) {
        if entry.end_read_ahead() {
            self.metrics.read_ahead().wasted(entry.bytes);
        }
    }

    fn show(&self) {
        self.metrics.disk().set_bytes(self.index().bytes());
    }

    /// The path of a file that is not whole yet.
    fn draft(&self) -> PathBuf {
        self.settings.dir.join(DRAFTS).join(format!("{:032x}", rand::random::<u128>()))
    }

    fn path(&self, entry: &DiskEntry) -> PathBuf {
        let name = entry.digest.to_string().split_off(ALGORITHM.len());
        self.settings.dir.join(&name[..2]).join(format!("{name}.{:016x}", entry.generation))
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.disk.index().reserved -= self.bytes;
    }
}

/// The blobs in the folder, in the order of their last use. Only names and sizes are looked at: each file is checked when it
/// is read.
fn found(dir: &Path) -> io::Result<Vec<DiskEntry>> {
    let mut files: Vec<(SystemTime, DiskEntry)> = Vec::new();
    for folder in fs::read_dir(dir)? {
        let folder = folder?;
        if folder.file_name().len() != 2 || !folder.file_type()?.is_dir() {
            continue;
        }
        for file in fs::read_dir(folder.path())? {
            let file = file?;
            if let Some((digest, generation)) = named(&file.file_name().to_string_lossy()) {
                let known = file.metadata()?;
                files.push((known.modified()?, DiskEntry::new(digest, generation, known.len(), None)));
            }
        }
    }
    files.sort_by_key(|(used, _)| *used);
    Ok(files.into_iter().map(|(_, entry)| entry).collect())
}

/// The digest and the number in the name of a blob's file.
fn named(file: &str) -> Option<(Digest, u64)> {
    let (digest, generation) = file.split_once('.')?;
    Some((format!("{ALGORITHM}{digest}").parse().ok()?, u64::from_str_radix(generation, 16).ok()?))
}

/// What an unprivileged process may still write to the file system of `dir`.
fn free_bytes(dir: &Path) -> io::Result<u64> {
    let known = rustix::fs::statvfs(dir)?;
    Ok(known.f_bavail.saturating_mul(known.f_frsize))
}
