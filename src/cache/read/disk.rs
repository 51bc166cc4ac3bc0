//! The two middle rungs of a read: the disk cache, and a fill that puts a blob into it.
//!
//! However many readers a blob has, one fetch serves them all, and the first reads while it goes on. Where the disk
//! fails, the bucket makes up for it from the next byte on. What a build may count on is decided by the bucket when its
//! manifest is served (`manifests`): the disk keeps such a promise when the object is gone meanwhile, and makes none.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use time::OffsetDateTime;
use tokio::task::{JoinHandle, spawn_blocking};

use super::bucket::{BlobSource, BucketReads};
use super::lookup::Lookups;
use super::read_ahead::IntoDisk;
use crate::cache::disk::{BLOCK_BYTES, Disk, DiskEntry, Fault, Follower, Stored};
use crate::cache::known::Known;
use crate::cache::{BlobInfo, BlobRead, Error, Outgoing, Result};
use crate::metrics::Metrics;
use crate::store::Meta;
use crate::types::{ByteRange, Digest, ETag, Grant, RangeSpec};

/// A reader that begins at most this far ahead of a fill follows it; one that is further ahead asks the bucket.
const NEAR: u64 = 16 << 20;
/// Blocks that are read from the disk at once, for one reader.
const READS: usize = 2;

/// Reads blobs from the disk cache, or through it.
#[derive(Debug)]
pub(super) struct DiskReads {
    disk: Arc<Disk>,
    read_ahead: Arc<IntoDisk>,
    lookups: Arc<Lookups>,
    bucket: BucketReads,
    known: Known,
    metrics: Metrics,
}

/// Where bytes come from that need no request of the reader's own.
enum Nearby {
    Disk(BlockReader),
    Fill(Follower),
}

/// Reads the blocks of a blob's file, a few at once.
struct BlockReader {
    entry: Arc<DiskEntry>,
    stored: Stored,
    /// The next block to ask for.
    block: u64,
    reads: VecDeque<JoinHandle<io::Result<Bytes>>>,
}

/// A blob or a part of it on its way out.
struct Reading {
    disk: Arc<Disk>,
    bucket: BucketReads,
    metrics: Metrics,
    source: BlobSource,
    size: u64,
    range: ByteRange,
    at: u64,
    /// The reader costs no fetch of its own.
    is_saved: bool,
    /// `None`: the other bytes come from `body`, a read from the bucket.
    nearby: Option<Nearby>,
    body: Outgoing,
}

impl DiskReads {
    pub(super) fn new(
        disk: Arc<Disk>,
        read_ahead: Arc<IntoDisk>,
        lookups: Arc<Lookups>,
        bucket: BucketReads,
        known: Known,
        metrics: Metrics,
    ) -> Self {
        Self { disk, read_ahead, lookups, bucket, known, metrics }
    }

    /// Reads a blob from the disk cache, or through it. `None`: the bucket is to be asked. That the grant may read the blob
    /// has been checked.
    pub(super) async fn read(&self, grant: &Grant, source: &BlobSource, range: Option<ByteRange>) -> Result<Option<BlobRead>> {
        let digest = &source.digest;
        let place = source.place();
        let start = range.map_or(0, ByteRange::start);
        let is_whole = range.is_none_or(|range| RangeSpec::from(range) == RangeSpec::From(0));
        // The fills are asked first: a fill ends when its blob is on disk.
        let joined = self.disk.fills.join(&place).filter(|fill| fill.so_far() + NEAR >= start);
        let (mut follower, is_new) = match joined {
            Some(follower) => (follower, false),
            None => {
                if let Some((entry, stored)) = self.open(digest).await {
                    let meta = self.stat(grant, digest, stored.size()).await?;
                    self.metrics.disk().lookup(true);
                    if is_whole {
                        self.read_ahead.expect_neighbours(grant, source);
                    }
                    let nearby = |range: ByteRange| Nearby::Disk(BlockReader::new(entry, stored, range.start()));
                    return self.reading(source, meta, range, true, nearby).map(Some);
                }
                let size = self.known.last(grant.scope(), digest).map_or(0, |seen| seen.size);
                if !is_whole || !self.disk.may_take(size) {
                    self.metrics.disk().lookup(false);
                    return Ok(None);
                }
                self.disk.fills.follow(&place, digest)
            }
        };
        self.metrics.disk().lookup(!is_new);
        if is_new {
            self.read_ahead.fetch(Arc::clone(follower.fill()), source.clone(), None);
        }
        if is_whole {
            self.read_ahead.expect_neighbours(grant, source);
        }
        let nearby = |mut follower: Follower, range: ByteRange| {
            follower.read(range.start(), range.end());
            Nearby::Fill(follower)
        };
        match follower.meta().await {
            Ok(meta) => self.reading(source, meta, range, !is_new, |range| nearby(follower, range)).map(Some),
            Err(Fault::Blob(error)) => Err(error),
            Err(Fault::Disk(_)) => Ok(None),
        }
    }

    async fn open(&self, digest: &Digest) -> Option<(Arc<DiskEntry>, Stored)> {
        if !self.disk.contains(digest) {
            return None;
        }
        let (disk, digest) = (Arc::clone(&self.disk), *digest);
        spawn_blocking(move || disk.get(&digest)).await.ok().flatten()
    }

    /// What a reader is told of a blob of `size` bytes on disk. For a build that was promised the blob, the bucket is not
    /// asked. Everybody else reads only what is in the bucket.
    async fn stat(&self, grant: &Grant, digest: &Digest, size: u64) -> Result<Meta> {
        if !grant.was_promised(digest) {
            let BlobInfo { size, etag, modified, .. } = self.lookups.stat(grant, digest).await?;
            return Ok(Meta { size, etag, modified });
        }
        let known = self.known.last(grant.scope(), digest).filter(|known| known.size == size);
        Ok(known.unwrap_or_else(|| Meta { size, etag: ETag::new(&digest.to_string()), modified: OffsetDateTime::now_utc() }))
    }

    fn reading(
        &self,
        source: &BlobSource,
        meta: Meta,
        range: Option<ByteRange>,
        is_saved: bool,
        nearby: impl FnOnce(ByteRange) -> Nearby,
    ) -> Result<BlobRead> {
        let (size, digest) = (meta.size, source.digest);
        let (start, end) = range.map_or((0, size), |range| (range.start(), range.end().min(size)));
        let Some(range) = ByteRange::new(start, end) else {
            return Err(Error::OutOfRange(format!("{digest} has {size} bytes: none from {start} on")));
        };
        let reading = Reading {
            disk: Arc::clone(&self.disk),
            bucket: self.bucket.clone(),
            metrics: self.metrics.clone(),
            source: source.clone(),
            size,
            range,
            at: start,
            is_saved,
            nearby: Some(nearby(range)),
            body: stream::empty().boxed(),
        };
        let body = stream::try_unfold(reading, |mut reading| async move { Ok(reading.next().await?.map(|chunk| (chunk, reading))) });
        Ok(BlobRead { info: BlobInfo::new(digest, meta), range: Some(range), body: Box::pin(body) })
    }
}

impl Reading {
    async fn next(&mut self) -> Result<Option<Bytes>> {
        loop {
            if self.at >= self.range.end() {
                return Ok(None);
            }
            let next = match &mut self.nearby {
                None => return self.body.try_next().await,
                Some(Nearby::Fill(follower)) => follower.next(self.size).await,
                Some(Nearby::Disk(reader)) => reader.next(self.at, self.range.end()).await.map_err(|error| Fault::Disk(Some(error))),
            };
            match next {
                Ok(chunk) => {
                    let bytes = chunk.as_ref().map_or(0, |chunk| chunk.len() as u64);
                    self.at += bytes;
                    if self.is_saved {
                        self.metrics.disk().read(bytes);
                    }
                    return Ok(chunk);
                }
                Err(Fault::Blob(error)) => return Err(error),
                Err(Fault::Disk(error)) => {
                    let nearby = self.nearby.take();
                    self.report(nearby, error.as_ref());
                    self.body = unread_from_bucket(&self.bucket, &self.source, self.at, self.range, self.size).await?;
                }
            }
        }
    }

    fn report(&self, nearby: Option<Nearby>, error: Option<&io::Error>) {
        let Some(error) = error else { return };
        match nearby {
            Some(Nearby::Disk(reader)) => self.disk.unreadable(&reader.entry, error),
            _ => self.disk.unwritable(error),
        }
    }
}

/// The bytes of `range` from `at` on, from the bucket, for a reader that has not got them yet. A blob that is read whole is
/// read whole once more, so that all of it is verified.
async fn unread_from_bucket(bucket: &BucketReads, source: &BlobSource, at: u64, range: ByteRange, size: u64) -> Result<Outgoing> {
    let is_whole = range.len() == size;
    let (range, mut skipped) = if is_whole { (None, at) } else { (ByteRange::new(at, range.end()), 0) };
    let body = bucket.read(source, range).await?.body;
    let unread = body.map_ok(move |mut chunk| {
        let skip = chunk.len().min(usize::try_from(skipped).unwrap_or(usize::MAX));
        skipped -= skip as u64;
        chunk.split_off(skip)
    });
    Ok(unread.try_filter(|chunk| std::future::ready(!chunk.is_empty())).boxed())
}

impl BlockReader {
    fn new(entry: Arc<DiskEntry>, stored: Stored, start: u64) -> Self {
        Self { entry, stored, block: start / BLOCK_BYTES, reads: VecDeque::new() }
    }

    /// The bytes from `at` on, to the end of their block or to `end`.
    async fn next(&mut self, at: u64, end: u64) -> io::Result<Option<Bytes>> {
        while self.reads.len() < READS && self.block * BLOCK_BYTES < end {
            let (stored, block) = (self.stored.clone(), self.block);
            self.reads.push_back(spawn_blocking(move || stored.read(block)));
            self.block += 1;
        }
        let Some(read) = self.reads.pop_front() else { return Ok(None) };
        let bytes = read.await.map_err(io::Error::other).flatten()?;
        let start = at / BLOCK_BYTES * BLOCK_BYTES;
        let index = |offset: u64| usize::try_from(offset - start).unwrap_or(usize::MAX).min(bytes.len());
        Ok(Some(bytes.slice(index(at)..index(end))))
    }
}
