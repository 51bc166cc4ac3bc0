//! A second request for a range whose first one is far slower than its siblings.
//!
//! A few of S3's answers take many times as long as the others, and while a reader waits for one of them,
//! all that was fetched behind it stands still. What is missing of that range is asked for again, over
//! another connection: on HTTP/1.1 each has one request at a time. Who first brings the byte that the reader
//! waits for goes on, and the other one is dropped, so nothing is held for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use futures_util::{StreamExt as _, TryFutureExt as _};

use super::download::RANGE_BYTES;
use super::resume::{self, Source};
use crate::metrics::Metrics;
use crate::store::ByteStream;
use crate::types::ByteRange;

/// A range is slow when it takes so many times as long as half of its siblings took,
const SLOWER: u32 = 3;
/// and longer than this for each [`RANGE_BYTES`]: twice what S3 takes.
const MIN_TIME: Duration = Duration::from_millis(250);
/// Siblings to judge by, the fewest and the most.
const SIBLINGS: (usize, usize) = (3, 15);
/// One range in so many may be asked for twice, counted over the process,
const ONE_IN: u64 = 20;
/// and so many in a row.
const IN_A_ROW: u64 = 4;

/// What second requests may cost all readers together. Clones are one and the same.
#[derive(Debug, Clone)]
pub(super) struct Hedges(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// In parts of a range, of which it takes [`ONE_IN`] to ask for one again.
    budget: AtomicU64,
    metrics: Metrics,
}

/// How long the ranges of one object took that came last.
#[derive(Debug, Default)]
pub(super) struct Siblings(VecDeque<Duration>);

/// A second request.
pub(super) struct Hedge {
    body: ByteStream,
    /// Where its next byte lies in the object.
    at: u64,
    race: Race,
}

/// Counts how it went.
struct Race {
    metrics: Metrics,
    won: bool,
}

impl Hedges {
    pub(super) fn new(metrics: Metrics) -> Self {
        Self(Arc::new(Inner { budget: AtomicU64::new(IN_A_ROW * ONE_IN), metrics }))
    }

    /// So many bytes are asked for the first time.
    pub(super) fn earn(&self, bytes: u64) {
        let earned = |budget: u64| Some((budget + ranges(bytes)).min(IN_A_ROW * ONE_IN));
        let _ = self.0.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, earned);
    }

    /// Asks for `range` again, if that is within the budget.
    pub(super) fn begin(&self, source: Arc<Source>, range: ByteRange) -> Option<Hedge> {
        let spent = |budget: u64| budget.checked_sub(ranges(range.len()) * ONE_IN);
        self.0.budget.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spent).ok()?;
        tracing::debug!(object.key = source.key.as_str(), offset = range.start(), "a range is slow; it is asked for again");
        // Only what has won is taken up again where it breaks off.
        let body = async move {
            let body = source.open(range).await?;
            Ok(resume::read(source, range, Some(body)))
        };
        let race = Race { metrics: self.0.metrics.clone(), won: false };
        Some(Hedge { body: body.try_flatten_stream().boxed(), at: range.start(), race })
    }
}

impl Siblings {
    /// A range of so many bytes took so long.
    pub(super) fn add(&mut self, bytes: u64, time: Duration) {
        self.0.truncate(SIBLINGS.1 - 1);
        self.0.push_front(each(bytes, time));
    }

    /// Whether a range of so many bytes that has taken so long by now is far slower than they were.
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
    /// What it brings from `position` on, the reader's next byte; `None` where it brings nothing.
    pub(super) fn poll_from(&mut self, position: u64, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        loop {
            let Some(Ok(mut piece)) = ready!(self.body.as_mut().poll_next(context)) else { return Poll::Ready(None) };
            // The first request may have gone on meanwhile.
            let late = position.saturating_sub(self.at);
            self.at += piece.len() as u64;
            if self.at > position {
                piece.advance(usize::try_from(late).unwrap_or(piece.len()));
                return Poll::Ready(Some(piece));
            }
        }
    }

    /// It is the range's only request from now on: the rest of it.
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

/// How many ranges' worth of bytes, and at least one.
fn ranges(bytes: u64) -> u64 {
    bytes.div_ceil(RANGE_BYTES).max(1)
}

fn each(bytes: u64, time: Duration) -> Duration {
    time / u32::try_from(ranges(bytes)).unwrap_or(u32::MAX)
}
