//! The ranges of one object that are in flight at once, delivered in order.
//!
//! Nothing runs by itself: a reader that polls moves all of its ranges forward, and a reader that does not poll keeps what
//! it has. The window grows while the reader waits for the store and each connection is slow, as those of S3 are. It
//! shrinks while one of the two is not so, down to one long range at a time.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use tokio::time::Instant;

use super::hedge::{Hedge, Hedges, Siblings};
use super::ranges::{RANGE_BYTES, range_end};
use super::resume::{self, ObjectVersion};
use super::shares::{Holder, Room, Shares};
use super::waits::Waits;
use crate::store::{ByteStream, Result};
use crate::types::ByteRange;

/// Ranges in flight when a read begins.
const FIRST_WIDTH: usize = 2;
/// The most ranges of one reader. They bring eight connections' worth of bytes, as each request begins with a wait.
const MAX_WIDTH: usize = 12;
/// The window's width is judged each time so many bytes were delivered, while it may grow.
const STEP_BYTES: u64 = 1 << 20;
/// The window grows while the reader waits for more than this fraction (one in so many) of its time.
const WAITS_MUCH: u32 = 8;
/// From so many bytes a second on, a connection is no bottleneck: one to S3 brings about 90 MB/s. More requests to a nearby
/// store would cost more than they gain.
const FAST: u128 = 150_000_000;
/// How many ranges are joined into one request when only one request is in flight.
const LONE_RANGES: u64 = 4;
/// When so little is left of the only request, the next one is sent: an answer takes a while to begin.
const ALMOST_BYTES: u64 = 4 << 20;
/// The window shrinks, at most once a round, while the reader waits for less than this fraction (one in so many).
const WAITS_LITTLE: u32 = 64;
/// A reader that has not polled for so long gives up its buffered ranges if others need the room.
const IDLE: Duration = Duration::from_secs(2);

/// An object, or a part of it, in order.
pub(super) struct Reader {
    window: Arc<Shared>,
    shares: Shares,
}

/// Locked while the reader polls, and while the [`Shares`] ask whether it is idle.
struct Shared(Mutex<Window>);

struct Window {
    source: Arc<ObjectVersion>,
    /// The first byte that has not been delivered yet.
    position: u64,
    end: u64,
    /// Adjacent, from `position` on. All but the first have room in the shares.
    ranges: VecDeque<Range>,
    hedges: Hedges,
    siblings: Siblings,
    /// How many ranges may be in flight.
    width: usize,
    /// How many bytes may be buffered.
    share: u64,
    waits: Waits,
    /// Where the width was last judged.
    step: Mark,
    /// Where this round began. In a round, the reader receives as many ranges as the window is wide.
    round: Mark,
    polled: Instant,
}

struct Range {
    span: ByteRange,
    /// How long the reader had waited when it began.
    begun: Duration,
    /// Chunks that arrived before the reader needed them.
    buffered: VecDeque<Result<Bytes>>,
    /// What has not arrived yet; `None` at the range's end.
    unread: Option<ByteStream>,
    /// A second request for what is missing; `None` also when that has ended.
    hedge: Option<Hedge>,
    hedged: bool,
    /// Memory for the whole range, until what is buffered has been delivered.
    room: Option<Room>,
}

/// How far a reader had come.
#[derive(Clone, Copy)]
struct Mark {
    at: Instant,
    position: u64,
    /// How long it had waited by then.
    waited: Duration,
}

/// What lies between two marks.
struct Stretch {
    bytes: u64,
    time: Duration,
    waited: Duration,
}

impl Reader {
    /// Reads up to `end`. `head` brings the first bytes: those of `begun`.
    pub(super) fn open(source: Arc<ObjectVersion>, begun: ByteRange, head: ByteStream, end: u64, shares: Shares, hedges: Hedges) -> Self {
        let now = Instant::now();
        let head = Range::new(begun, head, None, Duration::ZERO);
        let start = Mark { at: now, position: begun.start(), waited: Duration::ZERO };
        let window = Arc::new(Shared(Mutex::new(Window {
            source,
            position: begun.start(),
            end,
            ranges: VecDeque::from([head]),
            hedges,
            siblings: Siblings::default(),
            width: FIRST_WIDTH,
            share: 0,
            waits: Waits::default(),
            step: start,
            round: start,
            polled: now,
        })));
        let holder: Arc<dyn Holder> = Arc::<Shared>::clone(&window);
        shares.add(Arc::downgrade(&holder));
        window.0.lock().unwrap_or_else(PoisonError::into_inner).share = shares.share();
        Self { window, shares }
    }
}

impl Stream for Reader {
    type Item = Result<Bytes>;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let mut window = self.window.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        window.polled = now;
        window.waits.end(now);
        loop {
            window.open(&self.shares);
            let moved = window.fill_buffers(context);
            match window.poll_first(context) {
                Poll::Ready(Some(Ok(chunk))) => {
                    window.delivered(chunk.len() as u64, now, &self.shares);
                    return Poll::Ready(Some(Ok(chunk)));
                }
                Poll::Ready(Some(Err(error))) => {
                    window.ranges.clear();
                    window.end = window.position;
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(None) if window.ranges.is_empty() => return Poll::Ready(None),
                Poll::Ready(None) => window.first_ended(),
                // A range whose chunk was just buffered has not asked to be woken for the next one.
                Poll::Pending if moved || window.hedge_first() => {}
                Poll::Pending => {
                    window.waits.begin(now, context);
                    return Poll::Pending;
                }
            }
        }
    }
}

impl Window {
    /// Begins ranges until the window is full, the object ends, or there is no room.
    fn open(&mut self, shares: &Shares) {
        while self.ranges.len() < self.width || self.is_almost_done() {
            let start = self.ranges.back().map_or(self.position, |range| range.span.end());
            let more = if self.width == 1 { (LONE_RANGES - 1) * RANGE_BYTES } else { 0 };
            let Some(range) = ByteRange::new(start, range_end(start).saturating_add(more).min(self.end)) else { return };
            let room = if self.ranges.is_empty() {
                None
            } else {
                let held = self.ranges.iter().filter_map(|range| range.room.as_ref()).map(|room| room.num_permits() as u64).sum::<u64>();
                if held + range.len() > self.share {
                    return;
                }
                let Some(room) = shares.reserve(range.len()) else { return };
                Some(room)
            };
            let unread = resume::read(Arc::clone(&self.source), range, None);
            self.hedges.earn(range.len());
            self.ranges.push_back(Range::new(range, unread, room, self.waits.total()));
        }
    }

    /// Whether little is left of the only range.
    fn is_almost_done(&self) -> bool {
        self.ranges.len() == 1 && self.ranges.front().is_some_and(|range| range.span.end() - self.position < ALMOST_BYTES)
    }

    /// Buffers a chunk of each range behind the first. Returns whether there was one.
    fn fill_buffers(&mut self, context: &mut Context<'_>) -> bool {
        let mut moved = false;
        for range in self.ranges.iter_mut().skip(1) {
            let Some(Poll::Ready(chunk)) = range.unread.as_mut().map(|unread| unread.as_mut().poll_next(context)) else { continue };
            moved = true;
            if !matches!(chunk, Some(Ok(_))) {
                range.unread = None;
            }
            if chunk.is_none() {
                self.siblings.add(range.span.len(), self.waits.total() - range.begun);
            }
            range.buffered.extend(chunk);
        }
        moved
    }

    /// The next chunk of the first range, from whichever request has it; `None` at its end.
    fn poll_first(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        let Some(first) = self.ranges.front_mut() else { return Poll::Ready(None) };
        if let Some(chunk) = first.buffered.pop_front() {
            return Poll::Ready(Some(chunk));
        }
        first.room = None;
        let Some(unread) = &mut first.unread else { return Poll::Ready(None) };
        if let Poll::Ready(chunk) = unread.as_mut().poll_next(context) {
            return Poll::Ready(chunk);
        }
        let Some(hedge) = &mut first.hedge else { return Poll::Pending };
        let brought = ready!(hedge.poll_from(self.position, context));
        let hedge = first.hedge.take();
        let Some(chunk) = brought else { return Poll::Pending };
        first.unread = hedge.map(Hedge::wins);
        Poll::Ready(Some(Ok(chunk)))
    }

    /// Sends a second request for what is missing of the first range, if that is slow. Each range has at most one. Returns
    /// whether a request was sent.
    fn hedge_first(&mut self) -> bool {
        let Some(first) = self.ranges.front_mut().filter(|first| !first.hedged) else { return false };
        let slow = self.siblings.outran(first.span.len(), self.waits.total() - first.begun);
        if !slow || !self.source.store.has_headroom() {
            return false;
        }
        let Some(missing) = ByteRange::new(self.position, first.span.end()) else { return false };
        first.hedge = self.hedges.begin(Arc::clone(&self.source), missing);
        first.hedged = first.hedge.is_some();
        first.hedged
    }

    /// Goes on to the next range.
    fn first_ended(&mut self) {
        if let Some(first) = self.ranges.pop_front()
            && first.unread.is_some()
        {
            self.siblings.add(first.span.len(), self.waits.total() - first.begun);
        }
    }

    fn delivered(&mut self, bytes: u64, now: Instant, shares: &Shares) {
        self.position += bytes;
        if self.position - self.step.position < STEP_BYTES {
            return;
        }
        let here = Mark { at: now, position: self.position, waited: self.waits.total() };
        let step = here.since(self.step);
        let round = here.since(self.round);
        // Buffered chunks come in bursts, and then the reader waits. So the window shrinks only after a whole round.
        let is_whole_round = round.bytes >= self.width as u64 * RANGE_BYTES;
        let width = if step.waited * WAITS_MUCH > step.time && !step.is_fast(self.width) {
            (self.width + 1).min(MAX_WIDTH)
        } else if is_whole_round && (round.waited * WAITS_LITTLE < round.time || round.is_fast(self.width)) {
            (self.width - 1).max(1)
        } else {
            self.width
        };
        if is_whole_round || width != self.width {
            self.round = here;
        }
        self.width = width;
        self.share = shares.share();
        self.step = here;
    }
}

impl Range {
    fn new(span: ByteRange, unread: ByteStream, room: Option<Room>, begun: Duration) -> Self {
        Self { span, begun, buffered: VecDeque::new(), unread: Some(unread), hedge: None, hedged: false, room }
    }
}

impl Mark {
    fn since(self, earlier: Self) -> Stretch {
        Stretch { bytes: self.position - earlier.position, time: self.at.duration_since(earlier.at), waited: self.waited - earlier.waited }
    }
}

impl Stretch {
    /// Whether each of `width` connections is fast.
    fn is_fast(&self, width: usize) -> bool {
        u128::from(self.bytes) * 1_000_000_000 > FAST * self.time.as_nanos() * width as u128
    }
}

impl Holder for Shared {
    fn is_idle(&self, needed: bool) -> bool {
        let mut window = match self.0.try_lock() {
            Ok(window) => window,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // The reader is polling it.
            Err(TryLockError::WouldBlock) => return false,
        };
        let idle = window.polled.elapsed() > IDLE;
        if idle && needed {
            // Every range with room is dropped. A first range without room has nothing buffered and stays.
            window.ranges.retain(|range| range.room.is_none());
        }
        idle
    }
}
