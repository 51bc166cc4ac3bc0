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
    state: Mutex<UploadState>,
    pub(super) sequence: Sequence,
    /// The multipart upload that the parts go on to. `None`: a manifest, which waits here until it is whole.
    pub(super) forwarded: Option<transfer::Upload>,
    completing: AtomicBool,
}

#[derive(Debug)]
pub(super) struct UploadState {
    pub(super) parts: BTreeMap<u16, SentPart>,
    /// The parts are joined on this disk, and the store gets none of them.
    pub(super) is_kept: bool,
    pub(super) last_used: Instant,
}

#[derive(Debug, Clone)]
pub(super) struct SentPart {
    pub(super) etag: ETag,
    /// `None`: a copy of the object itself, which is how BuildKit touches blobs of 5 GiB and more.
    pub(super) size: Option<u64>,
}

impl Upload {
    pub(super) fn new(grant: Grant, item: Item, joined: Option<Joined>, forwarded: Option<transfer::Upload>) -> Self {
        let state = UploadState { parts: BTreeMap::new(), is_kept: joined.is_some(), last_used: Instant::now() };
        let sequence = Sequence::new(joined);
        Self { grant, item, state: Mutex::new(state), sequence, forwarded, completing: AtomicBool::new(false) }
    }

    pub(super) fn state(&self) -> MutexGuard<'_, UploadState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes a part that has arrived. Of a part that is sent twice, the store keeps the bytes that are hashed.
    pub(super) fn accept(&self, number: u16, payload: &Payload) -> Result<ETag> {
        let mut state = self.state();
        if self.completing.load(Ordering::Relaxed) {
            return Err(being_completed());
        }
        let etag = ETag::new(&format!("{:032x}", rand::random::<u128>()));
        state.parts.insert(number, SentPart { etag: etag.clone(), size: Some(payload.body().len()) });
        self.sequence.insert(number, payload.clone());
        if let Some(forwarded) = self.forwarded.as_ref().filter(|_| !state.is_kept) {
            forwarded.send(number, payload.clone());
        }
        Ok(etag)
    }

    /// Hashes the parts whose predecessors are hashed. Parts behind one that was sent again with other bytes count as never
    /// sent. Without room for more on this disk, the store gets the parts after all.
    pub(super) fn advance(&self) -> io::Result<()> {
        loop {
            let advanced = self.sequence.advance()?;
            for number in advanced.lost {
                self.state().parts.remove(&number);
            }
            if !advanced.is_stuck {
                return Ok(());
            }
            self.forward_all();
        }
    }

    /// Sends everything to the store from now on, also what came before.
    pub(super) fn forward_all(&self) {
        let mut state = self.state();
        let Some(forwarded) = self.forwarded.as_ref().filter(|_| std::mem::take(&mut state.is_kept)) else { return };
        let kept = self.sequence.leave_file();
        for number in state.parts.keys() {
            let waiting = self.sequence.waiting_part(*number);
            if let Some(payload) = waiting.or_else(|| kept.get(usize::from(*number).checked_sub(1)?).cloned()) {
                forwarded.send(*number, payload);
            }
        }
    }

    /// Checks that the parts `wanted` were sent with those ETags and are named in rising order. Returns whether they are copies
    /// of the object itself.
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

    /// The sums of the parts together. Hashes what is not hashed yet.
    pub(super) async fn sums(self: &Arc<Self>, numbers: Vec<u16>) -> Result<Sums> {
        let upload = Arc::clone(self);
        blocking(move || {
            upload.advance()?;
            let sums = upload.sequence.sums(&numbers)?;
            sums.ok_or_else(|| Error::Invalid("every part that was sent must be named, or the upload begun anew".to_owned()))
        })
        .await
    }

    /// The bytes of a manifest's parts, one part behind the other.
    pub(super) fn join(&self, numbers: &[u16]) -> Result<Bytes> {
        let mut joined = BytesMut::new();
        for number in numbers {
            let payload = self.sequence.waiting_part(*number).ok_or_else(|| Error::Invalid(format!("part {number} was not sent")))?;
            payload.read(|bytes| joined.extend_from_slice(bytes))?;
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
