//! Fetches a blob from its bucket into the disk cache, for all who follow the fill.
//!
//! Each piece goes to the readers as it comes, but the last, and meanwhile to a blocking thread that hashes
//! and writes it. The file gets its name, and the readers the last piece, when the digest is right.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use tokio::task::{JoinHandle, spawn_blocking};

use super::disk::Source;
use crate::cache::disk::{Disk, Draft, End, Entry, Fill, PIECE_BYTES};
use crate::cache::{Cache, layout};
use crate::store::{self, ByteStream, Meta, Object};
use crate::transfer::{Hold, RANGE_BYTES};
use crate::types::{ByteRange, Hasher};

/// Ends a fill whatever becomes of the task that works on it.
struct Ending {
    disk: Arc<Disk>,
    fill: Arc<Fill>,
}

impl Drop for Ending {
    fn drop(&mut self) {
        self.fill.ended(End::Bypassed);
        self.disk.fills.remove(&self.fill);
    }
}

/// A blob as it comes.
struct Arriving {
    body: ByteStream,
    size: u64,
    /// What has come.
    at: u64,
    /// Where the piece ends that is being gathered.
    end: u64,
    gathered: Vec<Bytes>,
    /// Came with it, and is of the next one.
    rest: Bytes,
}

/// A blob on its way to the disk, one piece at a time.
struct Writing {
    disk: Arc<Disk>,
    idle: Option<Writer>,
    busy: Option<JoinHandle<io::Result<(Writer, u64)>>>,
}

/// Works in a blocking thread.
struct Writer {
    draft: Draft,
    hasher: Box<Hasher>,
}

impl Cache {
    /// Does the work of a new fill. `hold`: its part of the read-ahead budget, where it is begun for nobody.
    pub(in crate::cache) async fn fill(self, disk: Arc<Disk>, fill: Arc<Fill>, source: Source, mut hold: Option<Hold>) {
        let (ending, ahead) = (Ending { disk: Arc::clone(&disk), fill: Arc::clone(&fill) }, hold.is_some());
        let mut came = 0;
        // The end of the process waits for readers alone.
        let at_last = async {
            self.0.shutdown.closing().await;
            fill.abandoned(true).await;
        };
        let fetched = tokio::select! {
            fetched = self.fetch(&disk, &fill, &source, &mut hold, &mut came) => fetched,
            () = fill.abandoned(false) => Err(End::Bypassed),
            () = at_last => Err(End::Bypassed),
        };
        let entry = fetched.as_ref().ok().cloned();
        fill.ended(fetched.map_or_else(|end| end, |entry| End::Whole { _entry: entry }));
        drop(ending);
        if ahead {
            self.0.metrics.read_ahead().fetched(came);
        }
        match entry {
            Some(entry) if !fill.is_ahead() => drop(entry.ends_ahead()),
            None if fill.is_ahead() => self.0.metrics.read_ahead().wasted(came),
            _ => {}
        }
        drop(hold);
        self.read_ahead(&disk);
    }

    async fn fetch(
        &self,
        disk: &Arc<Disk>,
        fill: &Arc<Fill>,
        source: &Source,
        hold: &mut Option<Hold>,
        came: &mut u64,
    ) -> Result<Arc<Entry>, End> {
        let (Source { scope, store, digest }, failed) = (source, |error: store::Error| End::Failed(error.into()));
        let mut patient = fill.is_ahead();
        let Object { meta, body, .. } = if patient {
            self.0.downloads.get_sequential(store, &layout::blob_key(scope, digest)).await.map_err(failed)?
        } else {
            self.stored_blob(scope, store, digest, None).await.map_err(End::Failed)?
        };
        self.check_quarantine(scope, digest, &meta).map_err(End::Failed)?;
        if meta.size == 0 {
            return Err(End::Bypassed);
        }
        let (beginning, size) = (Arc::clone(disk), meta.size);
        let (room, draft) = spawn_blocking(move || beginning.begin(size)).await.ok().flatten().ok_or(End::Bypassed)?;
        fill.opened(meta.clone(), draft.file());

        let mut arriving = Arriving::new(body, size);
        let mut writing = Writing::new(Arc::clone(disk), draft);
        let last = loop {
            let piece = tokio::select! {
                piece = arriving.piece() => piece.map_err(failed)?,
                () = fill.asked_for(), if patient => {
                    patient = false;
                    if let Some(rest) = self.rest(source, &meta, arriving.at).await {
                        arriving.go_on_with(rest);
                    }
                    continue;
                }
            };
            *came = arriving.at;
            if arriving.at == size {
                writing.write(Arc::clone(&piece), fill).await?;
                break piece;
            }
            fill.came(Arc::clone(&piece));
            writing.write(piece, fill).await?;
        };
        let (Writer { draft, hasher }, sum) = writing.done().await?;
        self.judge(scope, digest, &meta, &hasher.finish()).map_err(End::Failed)?;
        fill.came(last);
        sum.into_iter().for_each(|sum| fill.wrote(sum));
        if fill.is_disowned() {
            return Err(End::Bypassed);
        }
        let (keeping, ahead, digest) = (Arc::clone(disk), hold.take().filter(|_| fill.is_ahead()), *digest);
        let kept = spawn_blocking(move || keeping.keep(&digest, draft, &room, ahead)).await;
        kept.ok().flatten().ok_or(End::Bypassed)
    }

    /// The rest of a blob that somebody waits for now, as fast as it comes; `None`: it comes no faster than it
    /// does.
    async fn rest(&self, source: &Source, meta: &Meta, at: u64) -> Option<ByteStream> {
        let range = ByteRange::new(at, meta.size).filter(|rest| rest.len() > RANGE_BYTES)?;
        let key = layout::blob_key(&source.scope, &source.digest);
        let rest = self.0.downloads.get(&source.store, &key, Some(range)).await.ok()?;
        (rest.meta.etag == meta.etag).then_some(rest.body)
    }
}

impl Arriving {
    fn new(body: ByteStream, size: u64) -> Self {
        Self { body, size, at: 0, end: PIECE_BYTES.min(size), gathered: Vec::new(), rest: Bytes::new() }
    }

    /// The next piece. Nothing is lost when this is dropped midway.
    async fn piece(&mut self) -> store::Result<Arc<[Bytes]>> {
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
        self.end = self.end.saturating_add(PIECE_BYTES).min(self.size);
        Ok(std::mem::take(&mut self.gathered).into())
    }

    /// Takes what is still to come from another body.
    fn go_on_with(&mut self, body: ByteStream) {
        (self.body, self.rest) = (body, Bytes::new());
    }
}

impl Writing {
    fn new(disk: Arc<Disk>, draft: Draft) -> Self {
        Self { disk, idle: Some(Writer { draft, hasher: Box::default() }), busy: None }
    }

    /// Begins to write a piece, when the one before is written.
    async fn write(&mut self, piece: Arc<[Bytes]>, fill: &Fill) -> Result<(), End> {
        let (mut writer, sum) = self.done().await?;
        sum.into_iter().for_each(|sum| fill.wrote(sum));
        self.busy = Some(spawn_blocking(move || writer.write(&piece).map(|sum| (writer, sum))));
        Ok(())
    }

    /// Waits for the piece that is being written, if any; comes with its checksum.
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
    fn write(&mut self, piece: &[Bytes]) -> io::Result<u64> {
        piece.iter().for_each(|bytes| self.hasher.update(bytes));
        self.draft.append(piece)
    }
}
