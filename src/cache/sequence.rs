//! The digest of a blob whose parts arrive in any order: each part is hashed when its turn comes, and its
//! bytes are free then.
//!
//! The state of the hash behind every part is kept (about 100 bytes each), so a part that is sent again
//! can be told from another one.

use std::collections::BTreeMap;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::transfer::Piece;
use crate::types::{Digest, Hasher};

/// Parts in the order of the blob.
#[derive(Debug)]
pub(super) struct Sequence {
    /// Parts that wait for their turn; a part sent again waits too.
    waiting: Mutex<BTreeMap<u16, Piece>>,
    /// The hash behind each part so far, from that of no part on. Held while hashing.
    hashed: Mutex<Vec<Hasher>>,
}

impl Default for Sequence {
    fn default() -> Self {
        Self { waiting: Mutex::default(), hashed: Mutex::new(vec![Hasher::default()]) }
    }
}

impl Sequence {
    pub(super) fn insert(&self, number: u16, piece: Piece) {
        self.waiting().insert(number, piece);
    }

    /// A part that waits still.
    pub(super) fn waiting_part(&self, number: u16) -> Option<Piece> {
        self.waiting().get(&number).cloned()
    }

    /// Puts the same bytes elsewhere, unless the part had its turn meanwhile.
    pub(super) fn replace(&self, number: u16, old: &Piece, new: Piece) {
        if let Some(piece) = self.waiting().get_mut(&number).filter(|piece| piece.is(old)) {
            *piece = new;
        }
    }

    /// Hashes all whose turn has come. Blocks. Returns the parts that must be sent again: they were hashed
    /// behind one that is now another.
    pub(super) fn advance(&self) -> io::Result<Vec<u16>> {
        let mut hashed = self.hashed();
        let mut lost = Vec::new();
        while let Some((number, piece)) = self.next(hashed.len()) {
            let index = usize::from(number);
            let mut hasher = hashed[index - 1].clone();
            piece.read(|bytes| hasher.update(bytes))?;
            let same = hashed.get(index).is_some_and(|known| known.clone().finish() == hasher.clone().finish());
            if !same {
                lost.extend((number..).skip(1).take(hashed.len().saturating_sub(index + 1)));
                hashed.truncate(index);
                hashed.push(hasher);
            }
        }
        lost.retain(|number| usize::from(*number) >= hashed.len() && self.waiting_part(*number).is_none());
        Ok(lost)
    }

    fn next(&self, hashed: usize) -> Option<(u16, Piece)> {
        let mut waiting = self.waiting();
        let first = waiting.first_entry()?;
        (usize::from(*first.key()) <= hashed).then(|| first.remove_entry())
    }

    /// The digest of the parts `numbers`, which are all that have been hashed, or the first of them, and
    /// any that wait. `None`: a part has been hashed before them that is not among them. Blocks.
    pub(super) fn digest(&self, numbers: &[u16]) -> io::Result<Option<Digest>> {
        let hashed = self.hashed();
        let in_turn = numbers.iter().zip(1_u16..).take(hashed.len() - 1).take_while(|(number, turn)| *number == turn).count();
        let mut hasher = hashed[in_turn].clone();
        for number in &numbers[in_turn..] {
            let Some(piece) = self.waiting_part(*number) else { return Ok(None) };
            piece.read(|bytes| hasher.update(bytes))?;
        }
        Ok(Some(hasher.finish()))
    }

    fn waiting(&self) -> MutexGuard<'_, BTreeMap<u16, Piece>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hashed(&self) -> MutexGuard<'_, Vec<Hasher>> {
        self.hashed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
