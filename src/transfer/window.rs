//! The ranges of one object that are under way at once, delivered in order.
//!
//! Nothing runs by itself: a reader that polls moves all of its ranges, and one that does not keeps what
//! it has. The window grows while the reader waits for the store and each connection brings little, as
//! those of S3 do; it shrinks while either is not so, down to one long range at a time.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use futures_util::Stream;
use tokio::time::Instant;

use super::download::{RANGE_BYTES, range_end};
use super::hedge::{Hedge, Hedges, Siblings};
use super::resume::{self, Source};
use super::shares::{Holder, Room, Shares};
use super::waits::Waits;
use crate::store::{ByteStream, Result};
use crate::types::ByteRange;

/// Ranges under way when a read begins.
const FIRST_WIDTH: usize = 2;
/// The most of one reader: eight connections' worth of bytes, although each request begins with a wait.
const MAX_WIDTH: usize = 12;
/// How often the window's width is judged while it may grow, in bytes that were delivered.
const STEP_BYTES: u64 = 1 << 20;
/// The window grows while the reader waits for more than one part in so many of its time.
const WAITS_MUCH: u32 = 8;
/// Bytes a second from which on a connection is no bottleneck: one to S3 brings about 90 MB/s. More
/// requests to a store nearby cost more than they gain.
const FAST: u128 = 150_000_000;
/// How many ranges are asked for in one request when that is the only one.
const LONE_RANGES: u64 = 4;
/// With so little of it to come, the next one is asked for: a request's answer takes a while to begin.
const ALMOST_BYTES: u64 = 4 << 20;
/// It shrinks, once a turn, while the reader waits for less than one part in so many.
const WAITS_LITTLE: u32 = 64;
/// A reader that has not asked for so long may do without what was fetched ahead, if others need the room.
const IDLE: Duration = Duration::from_secs(2);

/// An object, or a part of it, in order.
pub(super) struct Reader {
    window: Arc<Shared>,
    shares: Shares,
}

/// Locked while the reader polls, and for a look by the [`Shares`].
struct Shared(Mutex<Window>);

struct Window {
    source: Arc<Source>,
    /// The first byte that was not delivered yet.
    position: u64,
    end: u64,
    /// Adjacent, from `position` on. All but the first have room in the shares.
    ranges: VecDeque<Range>,
    hedges: Hedges,
    siblings: Siblings,
    /// How many ranges may be under way.
    width: usize,
    /// How many bytes may be held.
    share: u64,
    waits: Waits,
    /// Where the width was judged last.
    step: Mark,
    /// Where this turn of the window began.
    turn: Mark,
    polled: Instant,
}

struct Range {
    span: ByteRange,
    /// How long the reader had waited when it began.
    begun: Duration,
    /// What arrived ahead of the reader.
    ready: VecDeque<Result<Bytes>>,
    /// The rest; `None` at its end.
    rest: Option<ByteStream>,
    /// A second request for that; `None` also when it has ended.
    hedge: Option<Hedge>,
    hedged: bool,
    /// Of the whole range, until `ready` is delivered.
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
    /// Reads up to `end`, first what `head` brings: the bytes of `begun`.
    pub(super) fn open(source: Arc<Source>, begun: ByteRange, head: ByteStream, end: u64, shares: Shares, hedges: Hedges) -> Self {
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
            turn: start,
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
            let moved = window.fetch_ahead(context);
            match window.poll_first(context) {
                Poll::Ready(Some(Ok(piece))) => {
                    window.delivered(piece.len() as u64, now, &self.shares);
                    return Poll::Ready(Some(Ok(piece)));
                }
                Poll::Ready(Some(Err(error))) => {
                    window.ranges.clear();
                    window.end = window.position;
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(None) if window.ranges.is_empty() => return Poll::Ready(None),
                Poll::Ready(None) => window.first_ended(),
                // What came in ahead has not asked to be woken for more.
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
            let rest = resume::read(Arc::clone(&self.source), range, None);
            self.hedges.earn(range.len());
            self.ranges.push_back(Range::new(range, rest, room, self.waits.total()));
        }
    }

    /// Whether little is left of the only range.
    fn is_almost_done(&self) -> bool {
        self.ranges.len() == 1 && self.ranges.front().is_some_and(|range| range.span.end() - self.position < ALMOST_BYTES)
    }

    /// Takes a piece of each range behind the first. Whether there was any.
    fn fetch_ahead(&mut self, context: &mut Context<'_>) -> bool {
        let mut moved = false;
        for range in self.ranges.iter_mut().skip(1) {
            let Some(Poll::Ready(piece)) = range.rest.as_mut().map(|rest| rest.as_mut().poll_next(context)) else { continue };
            moved = true;
            if !matches!(piece, Some(Ok(_))) {
                range.rest = None;
            }
            if piece.is_none() {
                self.siblings.add(range.span.len(), self.waits.total() - range.begun);
            }
            range.ready.extend(piece);
        }
        moved
    }

    /// The next piece of the first range, from whichever request has it; `None` at its end.
    fn poll_first(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<Bytes>>> {
        let Some(first) = self.ranges.front_mut() else { return Poll::Ready(None) };
        if let Some(piece) = first.ready.pop_front() {
            return Poll::Ready(Some(piece));
        }
        first.room = None;
        let Some(rest) = &mut first.rest else { return Poll::Ready(None) };
        if let Poll::Ready(piece) = rest.as_mut().poll_next(context) {
            return Poll::Ready(piece);
        }
        let Some(hedge) = &mut first.hedge else { return Poll::Pending };
        let brought = ready!(hedge.poll_from(self.position, context));
        let hedge = first.hedge.take();
        let Some(piece) = brought else { return Poll::Pending };
        first.rest = hedge.map(Hedge::wins);
        Poll::Ready(Some(Ok(piece)))
    }

    /// Asks for what is missing of the first range again, where that is slow, once. Whether it did.
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
            && first.rest.is_some()
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
        let (step, steady) = (here.since(self.step), here.since(self.turn));
        // What is ready comes in bursts, and then the reader waits: less is judged only by a whole turn of the window.
        let turned = steady.bytes >= self.width as u64 * RANGE_BYTES;
        let width = if step.waited * WAITS_MUCH > step.time && !step.is_fast(self.width) {
            (self.width + 1).min(MAX_WIDTH)
        } else if turned && (steady.waited * WAITS_LITTLE < steady.time || steady.is_fast(self.width)) {
            (self.width - 1).max(1)
        } else {
            self.width
        };
        if turned || width != self.width {
            self.turn = here;
        }
        (self.width, self.share, self.step) = (width, shares.share(), here);
    }
}

impl Range {
    fn new(span: ByteRange, rest: ByteStream, room: Option<Room>, begun: Duration) -> Self {
        Self { span, begun, ready: VecDeque::new(), rest: Some(rest), hedge: None, hedged: false, room }
    }
}

impl Mark {
    fn since(self, earlier: Self) -> Stretch {
        Stretch { bytes: self.position - earlier.position, time: self.at.duration_since(earlier.at), waited: self.waited - earlier.waited }
    }
}

impl Stretch {
    /// Whether each of so many connections brings much.
    fn is_fast(&self, width: usize) -> bool {
        u128::from(self.bytes) * 1_000_000_000 > FAST * self.time.as_nanos() * width as u128
    }
}

impl Holder for Shared {
    fn is_idle(&self, needed: bool) -> bool {
        let mut window = match self.0.try_lock() {
            Ok(window) => window,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            // It is being polled.
            Err(TryLockError::WouldBlock) => return false,
        };
        let idle = window.polled.elapsed() > IDLE;
        if idle && needed {
            // Every range with room goes; the first without it, which holds no bytes, stays.
            window.ranges.retain(|range| range.room.is_none());
        }
        idle
    }
}
