//! Hedging: a second request for a range whose first request is far slower than those of its siblings.
//!
//! A few of S3's answers take many times as long as the others. While a reader waits for one of them, everything that was
//! buffered behind it stands still. So what is missing of that range is requested again, over another connection (on
//! HTTP/1.1 each connection has one request at a time). The request that first brings the byte that the reader waits for
//! goes on. The other one is dropped, so nothing is buffered for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::{StreamExt as _, TryFutureExt as _};

use super::ranges::RANGE_BYTES;
use super::resume::{self, ObjectVersion};
use crate::metrics::Metrics;
use crate::store::ByteStream;
use crate::types::ByteRange;

/// A range is slow when it takes so many times as long as the median of its siblings, and longer than [`MIN_TIME`].
const SLOWER: u32 = 3;
/// The time for each [`RANGE_BYTES`] below which no range is slow: twice what S3 takes.
const MIN_TIME: Duration = Duration::from_millis(250);
/// How many siblings a range is compared with: the fewest and the most.
const SIBLINGS: (usize, usize) = (3, 15);
/// One range in so many may be requested twice, counted over the whole process.
const ONE_IN: u64 = 20;
/// So many may be requested twice in a row.
const IN_A_ROW: u64 = 4;

/// The budget for the second requests of all readers. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Hedges(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// Counted in fractions of a range. A second request for one range costs [`ONE_IN`] of them.
    budget: AtomicU64,
    metrics: Metrics,
}

/// How long the latest ranges of one object took.
#[derive(Debug, Default)]
pub(super) struct Siblings(VecDeque<Duration>);

/// A second request.
pub(super) struct Hedge {
    body: ByteStream,
    /// Where its next byte lies in the object.
    at: u64,
    race: Race,
}

/// Counts, when it is dropped, which of the two requests won.
struct Race {
    metrics: Metrics,
    won: bool,
}

impl Hedges {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self(Arc::new(Inner { budget: AtomicU64::new(IN_A_ROW * ONE_IN), metrics }))
    }

    /// Records that so many bytes are requested for the first time.
    pub(super) fn earn(&self, bytes: u64) {
        let earned = |budget: u64| Some((budget + ranges(bytes)).min(IN_A_ROW * ONE_IN));
        let _ = self.0.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earned);
    }

    /// Requests `range` again, if the budget allows it.
    pub(super) fn begin(&self, source: Arc<ObjectVersion>, range: ByteRange) -> Option<Hedge> {
        let spent = |budget: u64| budget.checked_sub(ranges(range.len()) * ONE_IN);
        self.0.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent).ok()?;
        tracing::debug!(object.key = source.key.as_str(), offset = range.start(), "a range is slow; it is asked for again");
        // Opening is not retried; only an answer that has begun is resumed.
        let body = async move {
            let body = source.open(range).await?;
            Ok(resume::read(source, range, Some(body)))
        };
        let race = Race { metrics: self.0.metrics.clone(), won: false };
        Some(Hedge { body: body.try_flatten_stream().boxed(), at: range.start(), race })
    }
}

impl Siblings {
    /// Records that a range of so many bytes took so long.
    pub(super) fn add(&mut self, bytes: u64, time: Duration) {
        self.0.truncate(SIBLINGS.1 - 1);
        self.0.push_front(each(bytes, time));
    }

    /// Whether a range of so many bytes, which has taken so long until now, is far slower than they were.
    pub(super) fn outran(&self, bytes: u64, time: Duration) -> bool {
        let time = each(bytes, time);
        if time < MIN_TIME || self.0.len() < SIBLINGS.0 {
            return false;
        }
        let mut times: Vec<Duration> = self.0.iter().copied().collect();
        times.sort_unstable();
        time > SLOWER * times[times.len() / 2]
    }
}

impl Hedge {
    /// What it brings from `position` on, which is the reader's next byte; `None` where it has failed or ended.
    pub(super) fn poll_from(&mut self, position: u64, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            let Some(Ok(mut chunk)) = ready!(self.body.as_mut().poll_next(context)) else { return Poll::Ready(None) };
            // The first request may have gone on meanwhile.
            let late = position.saturating_sub(self.at);
            self.at += chunk.len() as u64;
            if self.at > position {
                chunk.advance(usize::try_from(late).unwrap_or(chunk.len()));
                return Poll::Ready(Some(chunk));
            }
        }
    }

    /// Makes it the range's only request. Returns the bytes that are still to come.
    pub(super) fn wins(mut self) -> ByteStream {
        self.race.won = true;
        self.body
    }
}

impl Drop for Race {
    fn drop(&mut self) {
        self.metrics.range_hedged(self.won);
    }
}

/// How many ranges `bytes` make up; at least one.
fn ranges(bytes: u64) -> u64 {
    bytes.div_ceil(RANGE_BYTES).max(1)
}

fn each(bytes: u64, time: Duration) -> Duration {
    time / u32::try_from(ranges(bytes)).unwrap_or(u32::MAX)
}
