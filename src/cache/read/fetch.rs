//! Fetches a blob from its bucket into the disk cache, for all readers that follow the fill.
//!
//! Each block but the last goes to the readers as it comes, and meanwhile to a blocking thread that hashes and writes it.
//! When the digest is right, the file gets its name and the readers get the last block.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use tokio::task::{JoinHandle, spawn_blocking};

use super::bucket::{BlobSource, BucketReads};
use crate::cache::disk::{BLOCK_BYTES, Disk, DiskEntry, Draft, End, Fill};
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::store::{self, ByteStream, Object};
use crate::transfer::Hold;
use crate::types::Hasher;

/// Fetches blobs into the disk cache. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Fetcher {
    disk: Arc<Disk>,
    bucket: BucketReads,
    metrics: Metrics,
    shutdown: Shutdown,
}

/// Ends a fill, also when the task that works on it is dropped.
struct Ending {
    disk: Arc<Disk>,
    fill: Arc<Fill>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.fill.end(End::Bypassed);
        self.disk.fills.remove(&self.fill);
    }
}

/// A blob as it arrives, cut into blocks.
struct Arriving {
    body: ByteStream,
    size: u64,
    /// Bytes that have arrived and belong to a block.
    at: u64,
    /// Where the block ends that is being gathered.
    end: u64,
    gathered: Vec<Bytes>,
    /// Bytes of the next block that came in the same chunk.
    rest: Bytes,
}

/// A blob on its way to the disk, one block at a time.
struct Writing {
    disk: Arc<Disk>,
    idle: Option<Writer>,
    busy: Option<JoinHandle<io::Result<(Writer, u64)>>>,
}

/// Hashes and writes in a blocking thread.
struct Writer {
    draft: Draft,
    hasher: Box<Hasher>,
}

impl Fetcher {
    pub(super) fn new(disk: Arc<Disk>, bucket: BucketReads, metrics: Metrics, shutdown: Shutdown) -> Self {
        Self { disk, bucket, metrics, shutdown }
    }

    /// Does the work of a new fill. `hold` is its part of the read-ahead budget, where nobody has asked for the blob.
    pub(super) async fn run(&self, fill: Arc<Fill>, source: BlobSource, mut hold: Option<Hold>) {
        let ending = Ending { disk: Arc::clone(&self.disk), fill: Arc::clone(&fill) };
        let is_read_ahead = hold.is_some();
        let mut received = 0;
        // At the end of the process, only a fill that somebody reads is waited for.
        let at_last = async {
            self.shutdown.closing().await;
            fill.abandoned(true).await;
        };
        let fetched = tokio::select! {
            fetched = self.fetch(&fill, &source, &mut hold, &mut received) => fetched,
            () = fill.abandoned(false) => Err(End::Bypassed),
            () = at_last => Err(End::Bypassed),
        };
        let entry = fetched.as_ref().ok().cloned();
        fill.end(fetched.map_or_else(|end| end, |entry| End::Whole { _entry: entry }));
        drop(ending);
        if is_read_ahead {
            self.metrics.read_ahead().fetched(received);
        }
        match entry {
            Some(entry) if !fill.is_read_ahead() => drop(entry.end_read_ahead()),
            None if fill.is_read_ahead() => self.metrics.read_ahead().wasted(received),
            _ => {}
        }
    }

    async fn fetch(
        &self,
        fill: &Arc<Fill>,
        source: &BlobSource,
        hold: &mut Option<Hold>,
        received: &mut u64,
    ) -> Result<Arc<DiskEntry>, End> {
        let failed = |error: store::Error| End::Failed(error.into());
        let mut is_slow = fill.is_read_ahead();
        let Object { meta, body, .. } = if is_slow {
            self.bucket.open_sequential(source).await.map_err(failed)?
        } else {
            self.bucket.open(source, None).await.map_err(End::Failed)?
        };
        let BlobSource { scope, digest, .. } = source;
        self.bucket.verifier.admit(scope, digest, &meta).map_err(End::Failed)?;
        if meta.size == 0 {
            return Err(End::Bypassed);
        }
        let beginning = Arc::clone(&self.disk);
        let size = meta.size;
        let (room, draft) = spawn_blocking(move || beginning.begin(size)).await.ok().flatten().ok_or(End::Bypassed)?;
        fill.open(meta.clone(), draft.file());

        let mut arriving = Arriving::new(body, size);
        let mut writing = Writing::new(Arc::clone(&self.disk), draft);
        let last = loop {
            let block = tokio::select! {
                block = arriving.block() => block.map_err(failed)?,
                () = fill.asked_for(), if is_slow => {
                    is_slow = false;
                    if let Some(body) = self.bucket.speed_up(source, &meta, arriving.at).await {
                        arriving.go_on_with(body);
                    }
                    continue;
                }
            };
            *received = arriving.at;
            if arriving.at == size {
                writing.write(Arc::clone(&block), fill).await?;
                break block;
            }
            fill.add_block(Arc::clone(&block));
            writing.write(block, fill).await?;
        };
        let (Writer { draft, hasher }, sum) = writing.done().await?;
        self.bucket.verifier.judge(scope, digest, &meta, &hasher.finish()).map_err(End::Failed)?;
        fill.add_block(last);
        sum.into_iter().for_each(|sum| fill.record_written(sum));
        if fill.is_discarded() {
            return Err(End::Bypassed);
        }
        let keeping = Arc::clone(&self.disk);
        let hold = hold.take().filter(|_| fill.is_read_ahead());
        let digest = *digest;
        let kept = spawn_blocking(move || keeping.keep(&digest, draft, &room, hold)).await;
        kept.ok().flatten().ok_or(End::Bypassed)
    }
}

impl Arriving {
    fn new(body: ByteStream, size: u64) -> Self {
        Self { body, size, at: 0, end: BLOCK_BYTES.min(size), gathered: Vec::new(), rest: Bytes::new() }
    }

    /// The next block. Nothing is lost when this is dropped before it is done.
    async fn block(&mut self) -> store::Result<Arc<[Bytes]>> {
        while self.at < self.end {
            if self.rest.is_empty() {
                let Some(bytes) = self.body.try_next().await? else {
                    return Err(store::Error::Unavailable(format!("a blob ended {} bytes early", self.size - self.at)));
                };
                self.rest = bytes;
            }
            let missing = usize::try_from(self.end - self.at).unwrap_or(usize::MAX);
            let part = self.rest.split_to(missing.min(self.rest.len()));
            self.at += part.len() as u64;
            self.gathered.push(part);
        }
        self.end = self.end.saturating_add(BLOCK_BYTES).min(self.size);
        Ok(std::mem::take(&mut self.gathered).into())
    }

    /// Takes what has not arrived yet from another body.
    fn go_on_with(&mut self, body: ByteStream) {
        self.body = body;
        self.rest = Bytes::new();
    }
}

impl Writing {
    fn new(disk: Arc<Disk>, draft: Draft) -> Self {
        Self { disk, idle: Some(Writer { draft, hasher: Box::default() }), busy: None }
    }

    /// Begins to write a block as soon as the one before is written.
    async fn write(&mut self, block: Arc<[Bytes]>, fill: &Fill) -> Result<(), End> {
        let (mut writer, sum) = self.done().await?;
        sum.into_iter().for_each(|sum| fill.record_written(sum));
        self.busy = Some(spawn_blocking(move || writer.write(&block).map(|sum| (writer, sum))));
        Ok(())
    }

    /// Waits for the block that is being written, if there is one, and returns its checksum.
    async fn done(&mut self) -> Result<(Writer, Option<u64>), End> {
        let Some(busy) = self.busy.take() else { return self.idle.take().map(|writer| (writer, None)).ok_or(End::Bypassed) };
        match busy.await.map_err(io::Error::other).flatten() {
            Ok((writer, sum)) => Ok((writer, Some(sum))),
            Err(error) => {
                self.disk.unwritable(&error);
                Err(End::Bypassed)
            }
        }
    }
}

impl Writer {
    fn write(&mut self, block: &[Bytes]) -> io::Result<u64> {
        block.iter().for_each(|bytes| self.hasher.update(bytes));
        self.draft.append(block)
    }
}
