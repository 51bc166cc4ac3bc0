//! Reads that stopped before their blob did, kept open for the next one.
//!
//! containerd's client makes a Read call of about a MiB for every `ReadAt`, one after the other
//! (`core/content/proxy`, v2.4). To the store each would be a request of its own; here the next call goes
//! on where the last one stopped, and what the store sends meanwhile is there already.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;

use crate::cache::Outgoing;
use crate::types::{Digest, Scope};

/// Reads kept at once: each holds a request to the store open. The oldest goes when one more comes.
const MAX_PARKED: usize = 64;
/// A client that has not come back by then does not.
const KEPT: Duration = Duration::from_secs(20);

/// Reads that wait for their next call, of all callers or of one session's. Cheap to clone.
#[derive(Clone, Default)]
pub(super) struct Parked(Arc<Mutex<VecDeque<Read>>>);

/// A blob from `offset` on: first what is there already, then the rest.
pub(super) struct Read {
    pub(super) scope: Scope,
    pub(super) digest: Digest,
    pub(super) offset: u64,
    pub(super) ready: Bytes,
    pub(super) rest: Outgoing,
    /// When it last stopped.
    since: Instant,
}

impl Read {
    pub(super) fn new(scope: Scope, digest: Digest, offset: u64, ready: Bytes, rest: Outgoing) -> Self {
        Self { scope, digest, offset, ready, rest: Box::pin(rest.fuse()), since: Instant::now() }
    }
}

impl Parked {
    /// A read that stopped just there.
    pub(super) fn take(&self, scope: &Scope, digest: &Digest, offset: u64) -> Option<Read> {
        let mut reads = self.fresh();
        let at = reads.iter().position(|read| read.offset == offset && read.digest == *digest && read.scope == *scope)?;
        reads.remove(at)
    }

    /// Keeps a read.
    pub(super) fn park(&self, mut read: Read) {
        read.since = Instant::now();
        let mut reads = self.fresh();
        if reads.len() >= MAX_PARKED {
            reads.pop_front();
        }
        reads.push_back(read);
    }

    fn fresh(&self) -> std::sync::MutexGuard<'_, VecDeque<Read>> {
        let mut reads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while reads.front().is_some_and(|read| read.since.elapsed() > KEPT) {
            reads.pop_front();
        }
        reads
    }
}

impl std::fmt::Debug for Parked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Parked").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_read_is_kept_from_when_it_stopped_not_from_when_it_began() {
        let (parked, scope, digest) = (Parked::default(), Scope::new("bucket".parse().unwrap(), "").unwrap(), Digest::of(b"x"));
        let mut read = Read::new(scope.clone(), digest, 7, Bytes::new(), Box::pin(futures_util::stream::empty()));
        read.since = Instant::now().checked_sub(2 * KEPT).unwrap();
        parked.park(read);
        assert!(parked.take(&scope, &digest, 8).is_none());
        assert!(parked.take(&scope, &digest, 7).is_some());
    }
}
