//! A Read call that ended before its blob did, kept for the call that goes on from there.

use bytes::Bytes;

use crate::cache::Outgoing;
use crate::types::{Digest, Scope};

/// Where a read has stopped: the blob and the next offset in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stop {
    pub(super) scope: Scope,
    pub(super) digest: Digest,
    pub(super) offset: u64,
}

/// A read that has stopped: first come the bytes that are here already, then those that are not read yet.
pub(super) struct KeptRead {
    pub(super) ready: Bytes,
    pub(super) unread: Outgoing,
}
