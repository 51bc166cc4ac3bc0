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
    pub(super) fn park(&self, read: Read) {
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
