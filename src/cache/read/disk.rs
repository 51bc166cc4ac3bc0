//! Reads of blobs through the disk cache: from it, or from the bucket and into it on the way.
//!
//! However many readers there are, one fetch serves them; the first reads while it goes on. Whatever the
//! disk does wrong is made up for by the bucket, from the next byte on. What a build may count on is decided by
//! the bucket when its manifest is served (`manifests`): the disk keeps such a promise when the object is gone
//! meanwhile, and makes none.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use time::OffsetDateTime;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::cache::disk::{Disk, Entry, Fault, Follower, PIECE_BYTES, Stored};
use crate::cache::{BlobInfo, BlobRead, Cache, Error, Outgoing, Result, Settings, layout};
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::store::{GuardedStore, Meta};
use crate::types::{ByteRange, Digest, ETag, Grant, Scope};

/// A range that ends here, or further on, has no end of its own: no blob is so large.
const NO_END: u64 = i64::MAX.cast_unsigned();
/// A reader that begins so far ahead of a fetch follows it; one further ahead asks the bucket.
const NEAR: u64 = 16 << 20;
/// Between two looks at how much of the disk is free; each fetch looks by itself.
const WATCH: Duration = Duration::from_secs(60);
/// Pieces that are read from the disk at once, for one reader.
const READS: usize = 2;

/// A blob and the bucket that it is in.
#[derive(Debug, Clone)]
pub(in crate::cache) struct Source {
    pub(in crate::cache) scope: Arc<Scope>,
    pub(in crate::cache) store: Arc<dyn GuardedStore>,
    pub(in crate::cache) digest: Digest,
}

/// Where bytes come from but the bucket.
enum Nearby {
    Disk(DiskReader),
    Fill(Follower),
}

struct DiskReader {
    entry: Arc<Entry>,
    stored: Stored,
    /// The next piece to ask for.
    piece: u64,
    reads: VecDeque<JoinHandle<io::Result<Bytes>>>,
}

/// A blob, or a part of it, on its way out.
struct Reading {
    cache: Cache,
    source: Source,
    size: u64,
    range: ByteRange,
    at: u64,
    /// Another read pays for the fetch, or did.
    saved: bool,
    /// `None`: the rest comes from the bucket.
    nearby: Option<Nearby>,
    bucket: Outgoing,
}

/// Opens the disk cache, if there is to be one. Without a disk that can be used remora goes on without it.
pub(in crate::cache) async fn open_disk(settings: &Settings, metrics: &Metrics, shutdown: &Shutdown) -> Option<Arc<Disk>> {
    let disk = settings.disk.clone()?;
    let (dir, counting) = (disk.dir.clone(), metrics.clone());
    let opened = spawn_blocking(move || Disk::open(disk, counting)).await.map_err(io::Error::other).flatten();
    match opened {
        Ok(disk) => {
            let disk = Arc::new(disk);
            shutdown.spawn(watch(Arc::clone(&disk), shutdown.clone()));
            Some(disk)
        }
        Err(error) => {
            metrics.disk().failed();
            tracing::error!(%error, "disk_cache.dir: {} cannot be used, so there is no disk cache: {error}", dir.display());
            None
        }
    }
}

/// Makes room where others fill the disk, until the process begins to end.
async fn watch(disk: Arc<Disk>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = shutdown.closing() => break,
            () = tokio::time::sleep(WATCH) => {}
        }
        let trimmed = Arc::clone(&disk);
        // It logs what goes wrong.
        let _ = spawn_blocking(move || trimmed.trim()).await;
    }
    disk.close();
}

impl Cache {
    /// Reads a blob from the disk cache, or through it; `None`: the bucket is to be asked. The grant reads it.
    pub(in crate::cache) async fn read_nearby(&self, grant: &Grant, digest: &Digest, range: Option<ByteRange>) -> Result<Option<BlobRead>> {
        let Some(disk) = &self.0.disk else { return Ok(None) };
        let (place, start) = (layout::blob_place(grant.scope(), digest), range.map_or(0, ByteRange::start));
        let whole = range.is_none_or(|range| range.start() == 0 && range.end() >= NO_END);
        let source = Source { scope: Arc::new(grant.scope().clone()), store: self.store(grant)?, digest: *digest };
        // In this order: a fill ends when its blob is on disk.
        let joined = disk.fills.join(&place).filter(|fill| fill.so_far() + NEAR >= start);
        let (mut follower, is_new) = match joined {
            Some(follower) => (follower, false),
            None => {
                if let Some((entry, stored)) = from_disk(disk, digest).await {
                    let meta = self.stat_nearby(grant, digest, stored.size()).await?;
                    self.0.metrics.disk().lookup(true);
                    if whole {
                        self.expect_more(grant, digest);
                    }
                    return self
                        .reading(source, meta, range, true, |range| Nearby::Disk(DiskReader::new(entry, stored, range.start())))
                        .map(Some);
                }
                let size = self.0.known.last(grant.scope(), digest).map_or(0, |seen| seen.size);
                if !whole || !disk.may_take(size) {
                    self.0.metrics.disk().lookup(false);
                    return Ok(None);
                }
                disk.fills.follow(&place, digest)
            }
        };
        self.0.metrics.disk().lookup(!is_new);
        if is_new {
            self.0.shutdown.spawn(self.clone().fill(Arc::clone(disk), Arc::clone(follower.fill()), source.clone(), None));
        }
        if whole {
            self.expect_more(grant, digest);
        }
        match follower.meta().await {
            Ok(meta) => self
                .reading(source, meta, range, !is_new, |range| {
                    follower.read(range.start(), range.end());
                    Nearby::Fill(follower)
                })
                .map(Some),
            Err(Fault::Blob(error)) => Err(error),
            Err(Fault::Disk(_)) => Ok(None),
        }
    }

    /// What is told of a blob of `size` bytes on disk. A build that was promised it needs no look at the
    /// bucket; everybody else reads no more than what is in the bucket.
    async fn stat_nearby(&self, grant: &Grant, digest: &Digest, size: u64) -> Result<Meta> {
        if !grant.was_promised(digest) {
            let BlobInfo { size, etag, modified, .. } = self.stat_blob(grant, digest).await?;
            return Ok(Meta { size, etag, modified });
        }
        let known = self.0.known.last(grant.scope(), digest).filter(|known| known.size == size);
        Ok(known.unwrap_or_else(|| Meta { size, etag: ETag::new(&digest.to_string()), modified: OffsetDateTime::now_utc() }))
    }

    fn reading(
        &self,
        source: Source,
        meta: Meta,
        range: Option<ByteRange>,
        saved: bool,
        nearby: impl FnOnce(ByteRange) -> Nearby,
    ) -> Result<BlobRead> {
        let (size, digest) = (meta.size, source.digest);
        let (start, end) = range.map_or((0, size), |range| (range.start(), range.end().min(size)));
        let Some(range) = ByteRange::new(start, end) else {
            return Err(Error::OutOfRange(format!("{digest} has {size} bytes: none from {start} on")));
        };
        let (nearby, bucket) = (Some(nearby(range)), stream::empty().boxed());
        let reading = Reading { cache: self.clone(), source, size, range, at: start, saved, nearby, bucket };
        let body = stream::try_unfold(reading, |mut reading| async move { Ok(reading.next().await?.map(|piece| (piece, reading))) });
        Ok(BlobRead { info: BlobInfo::new(digest, meta), range: Some(range), body: Box::pin(body) })
    }
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.at >= self.range.end() {
                return Ok(None);
            }
            let fault = match &mut self.nearby {
                None => return self.bucket.try_next().await,
                Some(Nearby::Fill(follower)) => follower.next(self.size).await,
                Some(Nearby::Disk(disk)) => disk.next(self.at, self.range.end()).await.map_err(|error| Fault::Disk(Some(error))),
            };
            match fault {
                Ok(piece) => {
                    let bytes = piece.as_ref().map_or(0, |piece| piece.len() as u64);
                    self.at += bytes;
                    if self.saved {
                        self.cache.0.metrics.disk().read(bytes);
                    }
                    return Ok(piece);
                }
                Err(Fault::Blob(error)) => return Err(error),
                Err(Fault::Disk(error)) => {
                    let nearby = self.nearby.take();
                    self.report(nearby, error.as_ref());
                    self.bucket = rest_from_bucket(&self.cache, &self.source, self.at, self.range, self.size).await?;
                }
            }
        }
    }

    fn report(&self, nearby: Option<Nearby>, error: Option<&io::Error>) {
        let (Some(disk), Some(error)) = (&self.cache.0.disk, error) else { return };
        match nearby {
            Some(Nearby::Disk(reader)) => disk.unreadable(&reader.entry, error),
            _ => disk.unwritable(error),
        }
    }
}

/// What is left of `range` from `at` on. A blob that is read whole is read whole once more, so that all of it
/// is verified.
async fn rest_from_bucket(cache: &Cache, source: &Source, at: u64, range: ByteRange, size: u64) -> Result<Outgoing> {
    let whole = range.len() == size;
    let (range, mut skipped) = if whole { (None, at) } else { (ByteRange::new(at, range.end()), 0) };
    let Source { scope, store, digest } = source;
    let rest = cache.read_from_bucket(scope, store, digest, range).await?.body;
    let rest = rest.map_ok(move |mut piece| {
        let skip = piece.len().min(usize::try_from(skipped).unwrap_or(usize::MAX));
        skipped -= skip as u64;
        piece.split_off(skip)
    });
    Ok(rest.try_filter(|piece| std::future::ready(!piece.is_empty())).boxed())
}

impl DiskReader {
    fn new(entry: Arc<Entry>, stored: Stored, start: u64) -> Self {
        Self { entry, stored, piece: start / PIECE_BYTES, reads: VecDeque::new() }
    }

    /// The bytes from `at` on, to the end of their piece or to `end`.
    async fn next(&mut self, at: u64, end: u64) -> io::Result<Option<Bytes>> {
        while self.reads.len() < READS && self.piece * PIECE_BYTES < end {
            let (stored, piece) = (self.stored.clone(), self.piece);
            self.reads.push_back(spawn_blocking(move || stored.read(piece)));
            self.piece += 1;
        }
        let Some(read) = self.reads.pop_front() else { return Ok(None) };
        let bytes = read.await.map_err(io::Error::other).flatten()?;
        let start = at / PIECE_BYTES * PIECE_BYTES;
        let index = |offset: u64| usize::try_from(offset - start).unwrap_or(usize::MAX).min(bytes.len());
        Ok(Some(bytes.slice(index(at)..index(end))))
    }
}

async fn from_disk(disk: &Arc<Disk>, digest: &Digest) -> Option<(Arc<Entry>, Stored)> {
    if !disk.contains(digest) {
        return None;
    }
    let (disk, digest) = (Arc::clone(disk), *digest);
    spawn_blocking(move || disk.get(&digest)).await.ok().flatten()
}
