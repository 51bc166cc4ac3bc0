//! One upload: its parts, the order that they are hashed in, and where they go.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::{Bytes, BytesMut};

use super::joined::Joined;
use super::sequence::Sequence;
use crate::cache::blocking::blocking;
use crate::cache::layout::Item;
use crate::cache::{Error, Result};
use crate::transfer::{self, Payload};
use crate::types::{ETag, Grant, Sums};

#[derive(Debug)]
pub(super) struct Upload {
    pub(super) grant: Grant,
    pub(super) item: Item,
    state: Mutex<State>,
    pub(super) sequence: Sequence,
    /// On the way into the store; `None`: a manifest, which waits here until it is whole.
    pub(super) store: Option<transfer::Upload>,
    completing: AtomicBool,
}

#[derive(Debug)]
pub(super) struct State {
    pub(super) parts: BTreeMap<u16, Known>,
    /// The parts are joined on this disk, and the store gets none of them.
    pub(super) is_kept: bool,
    pub(super) last_used: Instant,
}

#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) etag: ETag,
    /// `None`: a copy of the object itself, which is how BuildKit touches blobs of 5 GiB and more.
    pub(super) size: Option<u64>,
}

impl Upload {
    pub(super) fn new(grant: Grant, item: Item, joined: Option<Joined>, store: Option<transfer::Upload>) -> Self {
        let state = State { parts: BTreeMap::new(), is_kept: joined.is_some(), last_used: Instant::now() };
        let (sequence, completing) = (Sequence::new(joined), AtomicBool::new(false));
        Self { grant, item, state: Mutex::new(state), sequence, store, completing }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a part that has arrived. What the store gets last is what is hashed last.
    pub(super) fn accept(&self, number: u16, piece: &Payload) -> Result<ETag> {
        let mut state = self.state();
        if self.completing.load(Ordering::Relaxed) {
            return Err(being_completed());
        }
        let etag = ETag::new(&format!("{:032x}", rand::random::<u128>()));
        state.parts.insert(number, Known { etag: etag.clone(), size: Some(piece.body().len()) });
        self.sequence.insert(number, piece.clone());
        if let Some(store) = self.store.as_ref().filter(|_| !state.is_kept) {
            store.send(number, piece.clone());
        }
        Ok(etag)
    }

    /// Hashes what has its turn. Parts that a part sent again has made void are as if never sent. Without room for
    /// more on this disk, the store gets the parts after all.
    pub(super) fn advance(&self) -> io::Result<()> {
        loop {
            let advanced = self.sequence.advance()?;
            for number in advanced.lost {
                self.state().parts.remove(&number);
            }
            if !advanced.is_stuck {
                return Ok(());
            }
            self.turn_to_store();
        }
    }

    /// Sends everything to the store from now on, what came before too.
    pub(super) fn turn_to_store(&self) {
        let mut state = self.state();
        let Some(store) = self.store.as_ref().filter(|_| std::mem::take(&mut state.is_kept)) else { return };
        let kept = self.sequence.leave_file();
        for number in state.parts.keys() {
            let waiting = self.sequence.waiting_part(*number);
            if let Some(piece) = waiting.or_else(|| kept.get(usize::from(*number).checked_sub(1)?).cloned()) {
                store.send(*number, piece);
            }
        }
    }

    /// Checks that `wanted` were sent with those tags, in rising order. Whether they are copies of the
    /// object itself.
    pub(super) fn check_parts(&self, wanted: &[(u16, ETag)]) -> Result<bool> {
        if wanted.is_empty() || !wanted.is_sorted_by(|(left, _), (right, _)| left < right) {
            return Err(Error::Invalid("the parts of an upload must be named, in rising order".to_owned()));
        }
        let state = self.state();
        let mut copies = 0;
        for (number, etag) in wanted {
            match state.parts.get(number) {
                Some(known) if known.etag == *etag => copies += usize::from(known.size.is_none()),
                _ => return Err(Error::Invalid(format!("part {number} with the etag {etag} was not sent"))),
            }
        }
        if copies > 0 && copies < wanted.len() {
            return Err(Error::Invalid("the upload mixes sent parts with copies".to_owned()));
        }
        Ok(copies > 0)
    }

    pub(super) fn size(&self, numbers: &[u16]) -> u64 {
        let state = self.state();
        numbers.iter().filter_map(|number| state.parts.get(number)?.size).sum()
    }

    /// Of the parts together, hashing what is not hashed yet.
    pub(super) async fn sums(self: &Arc<Self>, numbers: Vec<u16>) -> Result<Sums> {
        let upload = Arc::clone(self);
        blocking(move || {
            upload.advance()?;
            let sums = upload.sequence.sums(&numbers)?;
            sums.ok_or_else(|| Error::Invalid("every part that was sent must be named, or the upload begun anew".to_owned()))
        })
        .await
    }

    /// The parts of a manifest, one behind the other.
    pub(super) fn join(&self, numbers: &[u16]) -> Result<Bytes> {
        let mut joined = BytesMut::new();
        for number in numbers {
            let piece = self.sequence.waiting_part(*number).ok_or_else(|| Error::Invalid(format!("part {number} was not sent")))?;
            piece.read(|bytes| joined.extend_from_slice(bytes))?;
        }
        Ok(joined.freeze())
    }
}

/// Keeps parts from changing while they are joined.
pub(super) struct Completing<'a>(&'a Upload);

impl<'a> Completing<'a> {
    pub(super) fn begin(upload: &'a Upload) -> Result<Self> {
        let _state = upload.state();
        if upload.completing.swap(true, Ordering::Relaxed) { Err(being_completed()) } else { Ok(Self(upload)) }
    }
}

impl Drop for Completing<'_> {
    fn drop(&mut self) {
        self.0.completing.store(false, Ordering::Relaxed);
    }
}

fn being_completed() -> Error {
    Error::Locked("the upload is being completed".to_owned())
}
