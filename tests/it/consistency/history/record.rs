//! What was done, from when to when, and how it ended.

use std::collections::BTreeSet;

use remora::types::Digest;

/// One call, and what came of it. A read whose answer broke off says nothing, and is left out.
#[derive(Debug, Clone)]
pub(super) struct Event {
    pub(super) begun: u64,
    /// When the answer came. [`NEVER`] where it is not known whether and when the change happens.
    pub(super) ended: u64,
    pub(super) what: What,
}

/// A time later than any other.
pub(super) const NEVER: u64 = u64::MAX;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum What {
    /// Whether it was `acknowledged`; if not, it may have happened or not.
    Wrote {
        blob: Digest,
        acknowledged: bool,
    },
    /// Bytes that are not the blob's, or not all of them, were sent in its name and accepted.
    AcceptedWrongBytes {
        blob: Digest,
    },
    /// `found`: the digest of the bytes that came.
    Read {
        blob: Digest,
        found: Option<Digest>,
    },
    Deleted {
        blob: Digest,
    },
    Put {
        name: &'static str,
        blobs: BTreeSet<Digest>,
        acknowledged: bool,
    },
    /// `found`: the blobs that the manifest named.
    Got {
        name: &'static str,
        found: Option<BTreeSet<Digest>>,
    },
    Removed {
        name: &'static str,
    },
}

impl Event {
    /// Whether this was over before `other` began.
    pub(super) fn before(&self, other: &Self) -> bool {
        self.ended < other.begun
    }

    /// Whether this may have happened after `write` did, and before `read` had its answer: then it
    /// explains why the read does not see the write.
    pub(super) fn may_lie_between(&self, write: &Self, read: &Self) -> bool {
        !self.before(write) && self.begun < read.ended
    }
}
