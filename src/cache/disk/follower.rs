//! A reader of a blob that is on its way into the disk cache.
//!
//! It takes blocks from memory while they are there, or reads them back from the file, and waits for those that have not
//! come.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::watch;

use super::file::{self, BLOCK_BYTES};
use super::fill::{End, Fill, Look};
use crate::cache::Error;
use crate::store::Meta;

/// Why a follower gets no bytes.
#[derive(Debug)]
pub(in crate::cache) enum Fault {
    /// The disk fails or does not take the blob. The bucket has the bytes.
    Disk(Option<io::Error>),
    /// The blob cannot be had from the bucket either.
    Blob(Error),
}

/// A reader of a fill.
#[derive(Debug)]
pub(in crate::cache) struct Follower {
    fill: Arc<Fill>,
    changed: watch::Receiver<()>,
    at: u64,
    end: u64,
    ready: VecDeque<Bytes>,
}

impl Follower {
    /// A follower that the fill has counted already.
    pub(super) fn new(fill: &Arc<Fill>) -> Self {
        Self { changed: fill.changes(), fill: Arc::clone(fill), at: 0, end: u64::MAX, ready: VecDeque::new() }
    }

    /// The fill that is followed.
    pub(in crate::cache) fn fill(&self) -> &Arc<Fill> {
        &self.fill
    }

    /// What the store says of the blob.
    ///
    /// # Errors
    /// [`Fault`], where the fill ends before it has the store's answer.
    pub(in crate::cache) async fn meta(&mut self) -> Result<Meta, Fault> {
        loop {
            self.changed.mark_unchanged();
            match self.fill.meta() {
                (Some(meta), _) => return Ok(meta),
                (None, Some(end)) => return Err(Fault::from(end)),
                (None, None) => self.wait().await?,
            }
        }
    }

    /// Bytes of the blob that have come.
    pub(in crate::cache) fn so_far(&self) -> u64 {
        self.fill.so_far()
    }

    /// Lets it read the bytes from `at` to `end` from now on.
    pub(in crate::cache) fn read(&mut self, at: u64, end: u64) {
        self.at = at;
        self.end = end;
    }

    /// The next of the bytes; `None` at the end. `size` is the blob's.
    ///
    /// # Errors
    /// [`Fault`].
    pub(in crate::cache) async fn next(&mut self, size: u64) -> Result<Option<Bytes>, Fault> {
        loop {
            if let Some(bytes) = self.ready.pop_front() {
                self.at += bytes.len() as u64;
                return Ok(Some(bytes));
            }
            if self.at >= self.end {
                return Ok(None);
            }
            self.changed.mark_unchanged();
            let block = self.at / BLOCK_BYTES;
            match self.fill.look(block) {
                Look::Memory(bytes) => self.take(&bytes, block),
                Look::File(file, sum) => {
                    let read = tokio::task::spawn_blocking(move || file::read_block(&file, block, size, sum));
                    let bytes = read.await.map_err(io::Error::other).flatten().map_err(|error| Fault::Disk(Some(error)))?;
                    self.take(&[bytes], block);
                }
                Look::Ended(end) => return Err(Fault::from(end)),
                Look::Nowhere => self.wait().await?,
            }
        }
    }

    /// Takes the wanted bytes of a block.
    fn take(&mut self, bytes: &[Bytes], block: u64) {
        let mut start = block * BLOCK_BYTES;
        for bytes in bytes {
            let end = start + bytes.len() as u64;
            let (from, to) = (self.at.max(start), self.end.min(end));
            if from < to {
                let index = |offset: u64| usize::try_from(offset - start).unwrap_or(usize::MAX);
                self.ready.push_back(bytes.slice(index(from)..index(to)));
            }
            start = end;
        }
    }

    async fn wait(&mut self) -> Result<(), Fault> {
        self.changed.changed().await.map_err(|_| Fault::Disk(None))
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.fill.leave();
    }
}

impl From<End> for Fault {
    fn from(end: End) -> Self {
        match end {
            // On a conflict the blob has become another version, which has the same bytes.
            End::Failed(Error::Conflict(_)) | End::Whole { .. } | End::Bypassed => Self::Disk(None),
            End::Failed(error) => Self::Blob(error),
        }
    }
}
