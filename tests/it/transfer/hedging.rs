//! Ranges that are asked for a second time: those that hold a reader up, once, within bounds.
//!
//! Time stands still here but where everything waits.

use std::collections::HashSet;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt};
use remora::metrics::Metrics;
use remora::store::{ByteStream, Error};
use remora::transfer::{Downloads, RANGE_BYTES};
use remora::types::{ByteRange, Key};
use tokio::time::{sleep, timeout};

use crate::support::ranged_store::{Answer, CHUNK_BYTES, Gate, RangedStore};
use crate::transfer::download::content;

/// Far longer than anything takes that comes at all.
const LONG: Duration = Duration::from_secs(3600);
/// The pause between chunks at which a range is as fast as a connection to S3.
const LATENCY: Duration = Duration::from_millis(20);
const PAUSE: Duration = Duration::from_millis(1);
/// How many ranges the process may ask for twice in a row.
const IN_A_ROW: usize = 4;

/// Reads of one object.
struct Setting {
    store: RangedStore,
    bytes: Bytes,
    metrics: Metrics,
    downloads: Downloads,
}

impl Setting {
    /// `answers` has the number of the range, counted from 0, and whether it is asked for the first time.
    fn new(ranges: u64, mut answers: impl FnMut(u64, bool) -> Answer + Send + 'static) -> Self {
        let bytes = content(ranges * RANGE_BYTES, ranges);
        let metrics = Metrics::default();
        let mut asked = HashSet::new();
        let store = RangedStore::new(bytes.clone()).slow(LATENCY, PAUSE).with_answers(move |range| {
            let number = range.start() / RANGE_BYTES;
            answers(number, asked.insert(number))
        });
        Self { store, bytes, downloads: Downloads::new(256 << 20, metrics.clone()), metrics }
    }

    async fn body(&self) -> ByteStream {
        self.downloads.get(&self.store.shared(), &Key::new("blobs/", "key"), None).await.unwrap().body
    }

    async fn read(&self) {
        assert!(collect(self.body().await).await.unwrap() == self.bytes);
    }

    /// The ranges that were asked for twice, all of the first version.
    fn hedged(&self) -> Vec<ByteRange> {
        let mut asked = HashSet::new();
        let mut hedged = Vec::new();
        for (range, version) in self.store.seen().gets {
            let range = range.unwrap();
            assert_eq!(version.is_some(), range.start() > 0, "{range:?} is pinned");
            if !asked.insert(range.start() / RANGE_BYTES) {
                hedged.push(range);
            }
        }
        hedged
    }

    #[track_caller]
    fn assert_counted(&self, won: usize, lost: usize) {
        let text = self.metrics.encode();
        for (outcome, count) in [("won", won), ("lost", lost)] {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("remora_hedged_ranges_total{{outcome=\"{outcome}\"}} ")));
            assert_eq!(line.map_or(0, |count| count.parse().unwrap()), count, "{outcome}: {text}");
        }
    }
}

async fn collect(body: ByteStream) -> Result<Bytes, Error> {
    Ok(body.try_collect::<Vec<_>>().await?.concat().into())
}

fn range(start: u64, end: u64) -> ByteRange {
    ByteRange::new(start, end).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_range_that_never_answers_does_not_hold_up_its_reader() {
    for stuck in [1, 3, 7] {
        let setting =
            Setting::new(8, move |number, first| if number == stuck && first { Answer::Waits(Gate::new()) } else { Answer::Good });
        timeout(LONG, setting.read()).await.unwrap();
        assert_eq!(setting.hedged(), [range(stuck * RANGE_BYTES, (stuck + 1) * RANGE_BYTES)]);
        setting.assert_counted(1, 0);
        assert_eq!((setting.store.seen().open, setting.store.seen().sent), (0, setting.bytes.len() as u64));
    }
}

#[tokio::test(start_paused = true)]
async fn a_range_that_stops_midway_goes_on_from_there() {
    let arrived = 5 * CHUNK_BYTES;
    let setting = Setting::new(8, move |number, first| if number == 3 && first { Answer::StopsAfter(arrived) } else { Answer::Good });
    timeout(LONG, setting.read()).await.unwrap();
    assert_eq!(setting.hedged(), [range(3 * RANGE_BYTES + arrived, 4 * RANGE_BYTES)]);
    assert_eq!(setting.store.seen().sent, setting.bytes.len() as u64);
}

#[tokio::test(start_paused = true)]
async fn a_range_that_trickles_is_overtaken() {
    let slow = Duration::from_secs(1);
    let setting = Setting::new(8, move |number, first| if number == 3 && first { Answer::Trickles(slow) } else { Answer::Good });
    timeout(LONG, setting.read()).await.unwrap();
    setting.assert_counted(1, 0);
    let twice = setting.store.seen().sent - setting.bytes.len() as u64;
    assert!(twice <= 2 * CHUNK_BYTES, "{twice} bytes came twice");
}

#[tokio::test(start_paused = true)]
async fn the_first_request_may_win_and_there_is_no_third() {
    let (gate, other) = (Gate::new(), Gate::new());
    let gates = [gate.clone(), other];
    let setting =
        Setting::new(8, move |number, first| if number == 3 { Answer::Waits(gates[usize::from(!first)].clone()) } else { Answer::Good });
    let read = setting.read();
    tokio::pin!(read);
    timeout(LONG, read.as_mut()).await.unwrap_err();
    assert_eq!(setting.hedged().len(), 1);
    gate.open();
    read.await;
    setting.assert_counted(0, 1);
    assert_eq!((setting.store.seen().open, setting.store.seen().sent), (0, setting.bytes.len() as u64));
}

#[tokio::test(start_paused = true)]
async fn no_more_are_hedged_than_the_budget_allows() {
    let gate = Gate::new();
    let ranges = 16;
    let gates = gate.clone();
    let setting = Setting::new(ranges, move |number, first| if number >= 4 && first { Answer::Waits(gates.clone()) } else { Answer::Good });
    {
        let read = setting.read();
        tokio::pin!(read);
        timeout(LONG, read.as_mut()).await.unwrap_err();
        assert_eq!(setting.hedged().len(), IN_A_ROW);
        gate.open();
        read.await;
    }
    // 16 ranges do not earn another one.
    let stuck = Setting { store: stuck_once(), bytes: content(8 * RANGE_BYTES, 8), ..setting };
    timeout(LONG, stuck.read()).await.unwrap_err();
    stuck.assert_counted(IN_A_ROW, 0);
}

/// Eight ranges, the fourth of which never comes at first.
fn stuck_once() -> RangedStore {
    Setting::new(8, |number, first| if number == 3 && first { Answer::Waits(Gate::new()) } else { Answer::Good }).store
}

#[tokio::test(start_paused = true)]
async fn a_store_without_headroom_is_not_asked_twice() {
    let gate = Gate::new();
    let gates = gate.clone();
    let mut setting = Setting::new(8, move |number, _| if number == 3 { Answer::Waits(gates.clone()) } else { Answer::Good });
    setting.store = setting.store.without_headroom();
    let read = setting.read();
    tokio::pin!(read);
    timeout(LONG, read.as_mut()).await.unwrap_err();
    gate.open();
    read.await;
    assert_eq!(setting.hedged(), []);
}

#[tokio::test(start_paused = true)]
async fn a_second_request_for_another_version_brings_nothing() {
    let gate = Gate::new();
    let gates = gate.clone();
    let setting = Setting::new(8, move |number, first| if number == 7 && first { Answer::Waits(gates.clone()) } else { Answer::Good });
    let mut body = setting.body().await;
    let mut received = Vec::new();
    while received.len() as u64 != 7 * RANGE_BYTES {
        received.extend_from_slice(&body.next().await.unwrap().unwrap());
    }
    // Only the last range is under way, and its reader waits for it.
    timeout(2 * LATENCY, body.next()).await.unwrap_err();
    setting.store.replace(content(8 * RANGE_BYTES, 9));
    timeout(LONG, body.next()).await.unwrap_err();
    assert_eq!(setting.hedged().len(), 1);
    gate.open();
    received.extend_from_slice(&collect(body).await.unwrap());
    assert!(received == setting.bytes);
    setting.assert_counted(0, 1);
}

#[tokio::test(start_paused = true)]
async fn nothing_is_hedged_where_all_ranges_are_alike() {
    for (latency, pause) in [(LATENCY, PAUSE), (Duration::ZERO, Duration::ZERO), (Duration::from_secs(2), Duration::from_millis(50))] {
        let setting = Setting::new(24, |_, _| Answer::Good);
        let setting = Setting { store: setting.store.slow(latency, pause), ..setting };
        setting.read().await;
        assert_eq!(setting.hedged(), [], "{latency:?} {pause:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_takes_its_time_makes_no_range_slow() {
    let setting = Setting::new(8, |_, _| Answer::Good);
    let mut body = setting.body().await;
    let mut received = Vec::new();
    while let Some(chunk) = body.next().await {
        received.extend_from_slice(&chunk.unwrap());
        sleep(Duration::from_secs(1)).await;
    }
    assert!(received == setting.bytes);
    assert_eq!(setting.hedged(), []);
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_leaves_while_it_waits_makes_no_range_slow() {
    let setting = Setting::new(8, |number, first| if number == 3 && first { Answer::Waits(Gate::new()) } else { Answer::Good });
    let setting = Setting { store: setting.store.slow(Duration::from_secs(2), PAUSE), ..setting };
    let mut body = setting.body().await;
    let mut received = Vec::new();
    while received.len() as u64 != 3 * RANGE_BYTES {
        received.extend_from_slice(&body.next().await.unwrap().unwrap());
    }
    // The other ranges end as they should.
    while setting.store.seen().open > 1 {
        timeout(PAUSE, body.next()).await.unwrap_err();
    }
    for _ in 0..5 {
        sleep(LONG).await;
        assert!(futures_util::poll!(body.next()).is_pending());
    }
    assert_eq!(setting.hedged(), []);
    received.extend_from_slice(&timeout(LONG, collect(body)).await.unwrap().unwrap());
    assert!(received == setting.bytes);
    setting.assert_counted(1, 0);
}
