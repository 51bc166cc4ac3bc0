//! Fills: blobs on their way from their buckets into the disk cache, and the readers that follow them meanwhile.
//!
//! One fetch serves all followers of a fill. They get the last blocks from memory; a follower that is further behind reads
//! its block back from the file. The last block goes out when the blob's digest is right. A fill that has no follower any
//! more ends, unless it is read-ahead.

use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::watch;

use super::file::BLOCK_BYTES;
use super::follower::Follower;
use super::index::DiskEntry;
use crate::cache::Error;
use crate::store::Meta;
use crate::types::Digest;

/// Blocks in the file that stay in memory, too.
const TAIL: u64 = 3;

/// The fills under way, by the blob's place.
#[derive(Debug, Default)]
pub(in crate::cache) struct Fills(Mutex<HashMap<String, Arc<Fill>>>);

/// A blob on its way.
#[derive(Debug)]
pub(in crate::cache) struct Fill {
    place: String,
    digest: Digest,
    state: Mutex<FillState>,
    changed: watch::Sender<()>,
}

#[derive(Debug, Default)]
struct FillState {
    /// What the store says of the blob, once it has answered.
    meta: Option<Meta>,
    file: Option<Arc<File>>,
    /// The checksums of the blocks in the file.
    written: Vec<u64>,
    /// The blocks that came last. The first of them is block `tail_start`.
    tail: VecDeque<Arc<[Bytes]>>,
    tail_start: u64,
    end: Option<End>,
    followers: usize,
    /// Nobody has asked for the blob yet.
    read_ahead: bool,
    /// Nobody may follow it any more.
    closed: bool,
    /// The blob was dropped from the cache: it is not kept, and nobody else gets it.
    discarded: bool,
}

/// How a fill ended.
#[derive(Debug, Clone)]
pub(in crate::cache) enum End {
    /// The blob is on disk, and stays there while this is held.
    Whole { _entry: Arc<DiskEntry> },
    /// The blob cannot be read from its bucket.
    Failed(Error),
    /// The disk does not take it; the bucket has it.
    Bypassed,
}

/// Where a block can be had.
pub(super) enum Look {
    Memory(Arc<[Bytes]>),
    File(Arc<File>, u64),
    Nowhere,
    Ended(End),
}

impl Fills {
    /// Follows the fill of a blob. Returns also whether the fill is new: then the caller does its work.
    pub(in crate::cache) fn follow(&self, place: &str, digest: &Digest) -> (Follower, bool) {
        let mut fills = self.fills();
        if let Some(follower) = fills.get(place).and_then(Fill::follow) {
            return (follower, false);
        }
        let fill = Fill::new(place, digest, FillState { followers: 1, ..FillState::default() });
        fills.insert(place.to_owned(), Arc::clone(&fill));
        (Follower::new(&fill), true)
    }

    /// Follows a fill that is under way.
    pub(in crate::cache) fn join(&self, place: &str) -> Option<Follower> {
        self.fills().get(place).and_then(Fill::follow)
    }

    /// Begins a fill that nobody follows yet, unless there is one or `most` are under way.
    pub(in crate::cache) fn begin_read_ahead(&self, place: &str, digest: &Digest, most: usize) -> Option<Arc<Fill>> {
        let mut fills = self.fills();
        if fills.len() >= most || fills.contains_key(place) {
            return None;
        }
        let fill = Fill::new(place, digest, FillState { read_ahead: true, ..FillState::default() });
        fills.insert(place.to_owned(), Arc::clone(&fill));
        Some(fill)
    }

    pub(in crate::cache) fn count(&self) -> usize {
        self.fills().len()
    }

    /// Lets a blob that is on its way not be kept.
    pub(super) fn discard(&self, digest: &Digest) {
        for fill in self.fills().values().filter(|fill| fill.digest == *digest) {
            fill.state().discarded = true;
        }
    }

    pub(in crate::cache) fn remove(&self, fill: &Arc<Fill>) {
        let mut fills = self.fills();
        if fills.get(&fill.place).is_some_and(|known| Arc::ptr_eq(known, fill)) {
            fills.remove(&fill.place);
        }
    }

    fn fills(&self) -> MutexGuard<'_, HashMap<String, Arc<Fill>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Fill {
    fn new(place: &str, digest: &Digest, state: FillState) -> Arc<Self> {
        Arc::new(Self { place: place.to_owned(), digest: *digest, state: Mutex::new(state), changed: watch::Sender::new(()) })
    }

    fn follow(self: &Arc<Self>) -> Option<Follower> {
        let mut state = self.state();
        if state.closed || state.discarded || matches!(state.end, Some(End::Failed(_) | End::Bypassed)) {
            return None;
        }
        state.followers += 1;
        let was_read_ahead = std::mem::take(&mut state.read_ahead);
        drop(state);
        if was_read_ahead {
            self.changed.send_replace(());
        }
        Some(Follower::new(self))
    }

    /// Records the store's answer, and the file that the blocks go to.
    pub(in crate::cache) fn open(&self, meta: Meta, file: Arc<File>) {
        self.change(|state| {
            state.meta = Some(meta);
            state.file = Some(file);
        });
    }

    /// Adds the next block, which has come.
    pub(in crate::cache) fn add_block(&self, block: Arc<[Bytes]>) {
        self.change(|state| state.tail.push_back(block));
    }

    /// Records that the next block is in the file, with its checksum.
    pub(in crate::cache) fn record_written(&self, sum: u64) {
        self.change(|state| {
            state.written.push(sum);
            let written = state.written.len() as u64;
            while state.tail_start + TAIL < written && !state.tail.is_empty() {
                state.tail.pop_front();
                state.tail_start += 1;
            }
        });
    }

    pub(in crate::cache) fn end(&self, end: End) {
        self.change(|state| {
            state.end.get_or_insert(end);
        });
    }

    /// Whether the blob was dropped from the cache meanwhile.
    pub(in crate::cache) fn is_discarded(&self) -> bool {
        self.state().discarded
    }

    /// Whether nobody has asked for the blob.
    pub(in crate::cache) fn is_read_ahead(&self) -> bool {
        self.state().read_ahead
    }

    /// Resolves when somebody asks for the blob.
    pub(in crate::cache) async fn asked_for(&self) {
        self.until(|state| !state.read_ahead).await;
    }

    /// Resolves when nobody follows it, and lets nobody follow it from then on. Read-ahead that nobody has asked for yet goes
    /// on, unless this is `at_last`.
    pub(in crate::cache) async fn abandoned(&self, at_last: bool) {
        self.until(|state| {
            state.closed |= state.followers == 0 && (at_last || !state.read_ahead);
            state.closed
        })
        .await;
    }

    async fn until(&self, mut reached: impl FnMut(&mut FillState) -> bool) {
        let mut changed = self.changed.subscribe();
        loop {
            changed.mark_unchanged();
            if reached(&mut self.state()) || changed.changed().await.is_err() {
                return;
            }
        }
    }

    /// Tells of each change.
    pub(super) fn changes(&self) -> watch::Receiver<()> {
        self.changed.subscribe()
    }

    /// What the store says of the blob, and how the fill ended.
    pub(super) fn meta(&self) -> (Option<Meta>, Option<End>) {
        let state = self.state();
        (state.meta.clone(), state.end.clone())
    }

    /// Bytes of the blob that have come.
    pub(super) fn so_far(&self) -> u64 {
        let state = self.state();
        (state.tail_start + state.tail.len() as u64) * BLOCK_BYTES
    }

    /// A follower leaves.
    pub(super) fn leave(&self) {
        self.change(|state| state.followers -= 1);
    }

    pub(super) fn look(&self, block: u64) -> Look {
        let state = self.state();
        let at = |start: u64| usize::try_from(block.checked_sub(start)?).ok();
        if let Some(bytes) = at(state.tail_start).and_then(|at| state.tail.get(at)) {
            return Look::Memory(Arc::clone(bytes));
        }
        match (at(0).and_then(|at| state.written.get(at)), &state.file, &state.end) {
            (Some(sum), Some(file), _) => Look::File(Arc::clone(file), *sum),
            (_, _, Some(end)) => Look::Ended(end.clone()),
            _ => Look::Nowhere,
        }
    }

    /// Changes the state, and lets all followers look again.
    fn change(&self, change: impl FnOnce(&mut FillState)) {
        change(&mut self.state());
        self.changed.send_replace(());
    }

    fn state(&self) -> MutexGuard<'_, FillState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
