//! How long a store is waited for, and how much of it is asked at once.

use std::time::Duration;

/// What each call to the store may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Deadlines {
    /// Until a connection is open.
    pub connect: Duration,
    /// Until a request that sends next to nothing is answered; what takes longer by its nature is doubted
    /// after this time, and given up when the store does not answer a HEAD either.
    pub first_byte: Duration,
    /// Without a byte of a body, while somebody waits for one.
    pub stall: Duration,
    /// The whole call with its retries, without the time that the bytes which it sends may take.
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
    /// What calls without an answer, one after the other, may cost together before it opens.
    pub budget: Duration,
    /// The longest pause between two probes of a store that does not answer.
    pub probe_interval: Duration,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self { budget: Duration::from_secs(5), probe_interval: Duration::from_secs(5) }
    }
}

/// All of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// How long.
    pub deadlines: Deadlines,
    /// When to give up on the store as a whole.
    pub breaker: BreakerPolicy,
    /// Requests at once; fewer while the store is throttling.
    pub max_requests: usize,
}

impl Default for Policy {
    fn default() -> Self {
        Self { deadlines: Deadlines::default(), breaker: BreakerPolicy::default(), max_requests: 128 }
    }
}
