//! The sums of a blob whose parts arrive in any order: each part is hashed when all before it are, and its bytes are free
//! then.
//!
//! The state of the hash behind every part is kept (about half a KiB each), so a part that is sent again
//! can be told from another one. Where the blob is to be on this disk as a whole, the bytes are joined in a file
//! as they are hashed.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use super::joined::Joined;
use crate::store::Body;
use crate::transfer::Payload;
use crate::types::{Hasher, Sums};

/// Parts in the order of the blob.
#[derive(Debug)]
pub(in crate::cache) struct Sequence {
    /// Parts whose predecessors are not all hashed; a part that is sent again waits, too.
    waiting: Mutex<BTreeMap<u16, Payload>>,
    /// Held while hashing.
    hashed: Mutex<Hashed>,
    /// The number of the part that is hashed next.
    next: watch::Sender<usize>,
}

/// The parts that are hashed.
#[derive(Debug)]
struct Hashed {
    /// The state of the hash behind each part. The first state is that of no part.
    behind: Vec<Hasher>,
    /// Their bytes, where those are kept.
    joined: Option<Joined>,
}

/// How far the hash got.
#[derive(Debug, Default)]
pub(in crate::cache) struct Advanced {
    /// Parts that must be sent again: they were hashed behind one that is now another.
    pub(in crate::cache) lost: Vec<u16>,
    /// The file could not take the next part, which still waits.
    pub(in crate::cache) is_stuck: bool,
}

impl Sequence {
    /// No parts yet; `joined` is to take them.
    pub(in crate::cache) fn new(joined: Option<Joined>) -> Self {
        let hashed = Hashed { behind: vec![Hasher::default()], joined };
        Self { waiting: Mutex::default(), hashed: Mutex::new(hashed), next: watch::Sender::new(1) }
    }

    pub(in crate::cache) fn insert(&self, number: u16, payload: Payload) {
        self.waiting().insert(number, payload);
    }

    /// Waits until all parts before this one are hashed.
    pub(in crate::cache) async fn predecessors_of(&self, number: u16) {
        // This fails only when the sender is gone, which is in `self`.
        let _ = self.next.subscribe().wait_for(|next| usize::from(number) <= *next).await;
    }

    /// A part that still waits.
    pub(in crate::cache) fn waiting_part(&self, number: u16) -> Option<Payload> {
        self.waiting().get(&number).cloned()
    }

    /// Puts the same bytes elsewhere, unless the part was hashed meanwhile.
    pub(in crate::cache) fn replace(&self, number: u16, old: &Payload, new: Payload) {
        if let Some(payload) = self.waiting().get_mut(&number).filter(|payload| payload.is(old)) {
            *payload = new;
        }
    }

    /// Hashes all parts whose predecessors are hashed. Blocks.
    pub(in crate::cache) fn advance(&self) -> io::Result<Advanced> {
        let mut hashed = self.hashed();
        let Hashed { behind, joined } = &mut *hashed;
        let mut advanced = Advanced::default();
        while let Some((number, payload)) = self.next(behind.len()) {
            let index = usize::from(number);
            let mut hasher = behind[index - 1].clone();
            payload.read(|bytes| hasher.update(bytes))?;
            let same = behind.get(index).is_some_and(|known| known.clone().finish() == hasher.clone().finish());
            if same {
                continue;
            }
            advanced.lost.extend((number..).skip(1).take(behind.len().saturating_sub(index + 1)));
            behind.truncate(index);
            if let Some(joined) = joined
                && joined.put(index - 1, &payload).is_err()
            {
                // A part of the same number that has come meanwhile is newer, and stays.
                self.waiting().entry(number).or_insert(payload);
                advanced.is_stuck = true;
                break;
            }
            behind.push(hasher);
            self.next.send_replace(behind.len());
        }
        let hashed = behind.len();
        advanced.lost.retain(|number| usize::from(*number) >= hashed && self.waiting_part(*number).is_none());
        Ok(advanced)
    }

    /// The file of the parts `numbers`, where it has those and no others. It lasts until the sequence is dropped
    /// or [leaves](Self::leave_file) it.
    pub(in crate::cache) fn file_of(&self, numbers: &[u16]) -> Option<Body> {
        let hashed = self.hashed();
        let all = numbers.len() + 1 == hashed.behind.len() && numbers.iter().zip(1_u16..).all(|(number, expected)| *number == expected);
        hashed.joined.as_ref().filter(|_| all).map(Joined::body)
    }

    /// The parts in the file, from the first on. No more are joined.
    pub(in crate::cache) fn leave_file(&self) -> Vec<Payload> {
        self.hashed().joined.take().map(Joined::into_payloads).unwrap_or_default()
    }

    fn next(&self, hashed: usize) -> Option<(u16, Payload)> {
        let mut waiting = self.waiting();
        let first = waiting.first_entry()?;
        (usize::from(*first.key()) <= hashed).then(|| first.remove_entry())
    }

    /// The sums of the parts `numbers`, which are all that have been hashed, or the first of them, and
    /// any that wait. `None`: a part has been hashed before them that is not among them. Blocks.
    pub(in crate::cache) fn sums(&self, numbers: &[u16]) -> io::Result<Option<Sums>> {
        let hashed = self.hashed();
        let known = hashed.behind.len() - 1;
        let in_order = numbers.iter().zip(1_u16..).take(known).take_while(|(number, expected)| *number == expected).count();
        let mut hasher = hashed.behind[in_order].clone();
        for number in &numbers[in_order..] {
            let Some(payload) = self.waiting_part(*number) else { return Ok(None) };
            payload.read(|bytes| hasher.update(bytes))?;
        }
        Ok(Some(hasher.finish()))
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u16, Payload>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hashed(&self) -> MutexGuard<'_, Hashed> {
        self.hashed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
