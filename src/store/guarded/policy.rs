//! How long a store is waited for, and how much of it is asked at once.

use std::time::Duration;

/// What each call to the store may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Time until a connection is open.
    pub connect: Duration,
    /// Time until a request that sends next to nothing is answered. A call that by its nature takes longer is checked after
    /// this time, and given up if the store does not answer a HEAD either.
    pub first_byte: Duration,
    /// Time without a byte of a body while its reader waits.
    pub stall: Duration,
    /// Time for the whole call with its retries. The time that the bytes of its body may take comes on top.
    pub total: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(2),
            first_byte: Duration::from_secs(3),
            stall: Duration::from_secs(5),
            total: Duration::from_secs(15),
        }
    }
}

/// When the breaker opens and how it closes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BreakerPolicy {
    /// How much time calls without an answer may cost together before the breaker opens.
    pub budget: Duration,
    /// The longest pause between two probes of a store that does not answer.
    pub probe_interval: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self { budget: Duration::from_secs(5), probe_interval: Duration::from_secs(5) }
    }
}

/// The whole policy of a guard.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How long a call may take.
    pub deadlines: Deadlines,
    /// When to give up on the store as a whole.
    pub breaker: BreakerPolicy,
    /// How many requests may be in flight at once. Fewer while the store is throttling.
    pub max_requests: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self { deadlines: Deadlines::default(), breaker: BreakerPolicy::default(), max_requests: 128 }
    }
}
