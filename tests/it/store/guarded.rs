//! `remora::store::Guarded`: that every call ends, what is tried again, when the breaker moves.
//!
//! Time stands still here but where everything waits, so waits of seconds cost nothing and are exact.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use remora::metrics::Metrics;
use remora::shutdown::Shutdown;
use remora::store::{Body, Condition, Error, Guarded, GuardedStore as _, Policy, Store};
use remora::types::Key;
use time::OffsetDateTime;
use tokio::time::{Instant, sleep};

use crate::support::fault_store::{Fault, FaultStore};
use crate::support::log::Log;
use crate::support::memory_store::MemoryStore;

/// A guarded store with faults, and its metrics.
struct Setting {
    store: Arc<Guarded>,
    faults: FaultStore,
    metrics: Metrics,
    _shutdown: Shutdown,
}

impl Setting {
    fn new() -> Self {
        Self::with(Policy::default())
    }

    fn with(policy: Policy) -> Self {
        let memory = MemoryStore::default();
        let metrics = Metrics::default();
        let shutdown = Shutdown::default();
        memory.plant("key", Bytes::from(vec![7; 200 << 10]), OffsetDateTime::now_utc());
        let faults = FaultStore::new(memory);
        let store = Guarded::new(Arc::new(faults.clone()), policy, metrics.store(faults.url()), shutdown.clone());
        Self { store: Arc::new(store), faults, metrics, _shutdown: shutdown }
    }

    async fn put(&self) -> Result<(), Error> {
        self.store.put(&key(), Body::Bytes(Bytes::from_static(b"body")), Condition::None).await.map(drop)
    }

    #[track_caller]
    fn assert_metric(&self, line: &str) {
        let text = self.metrics.encode();
        assert!(text.lines().any(|found| found == line), "no {line:?} in {text}");
    }
}

fn key() -> Key {
    Key::new("", "key")
}

/// Waits for a call. Returns its result, and how long it took.
async fn timed<T>(call: impl Future<Output = T>) -> (T, Duration) {
    let begun = Instant::now();
    let outcome = call.await;
    (outcome, begun.elapsed())
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_silent_costs_seconds_once() {
    let setting = Setting::new();
    setting.faults.fails_with(Fault::Silence);
    let (first, took) = timed(setting.store.head(&key())).await;
    assert!(matches!(&first, Err(Error::Unavailable(why)) if why.contains("no answer")), "{first:?}");
    assert!(took < Duration::from_secs(7), "{took:?}");
    setting.assert_metric("remora_store_breaker{store=\"memory:faults\"} 2");
    assert!(!setting.store.has_headroom());
    for _ in 0..100 {
        let (refused, took) = timed(setting.put()).await;
        assert!(matches!(&refused, Err(Error::Unavailable(why)) if why.contains("breaker")), "{refused:?}");
        assert_eq!(took, Duration::ZERO);
    }
}

#[tokio::test(start_paused = true)]
async fn a_write_that_is_not_answered_is_given_up_as_soon() {
    let setting = Setting::new();
    setting.faults.fails_with(Fault::Silence);
    let body = Body::Bytes(Bytes::from(vec![0; 16 << 20]));
    let (put, took) = timed(setting.store.put(&key(), body, Condition::None)).await;
    assert!(matches!(put, Err(Error::Unavailable(_))) && took < Duration::from_secs(7), "{took:?}");
    let (list, took) = timed(setting.store.list("", None, 1)).await;
    assert!(matches!(list, Err(Error::Unavailable(_))) && took == Duration::ZERO, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_write_may_take_its_time_while_the_store_answers() {
    let setting = Setting::new();
    setting.faults.fails_with(Fault::SilentWrites);
    let body = Body::Bytes(Bytes::from(vec![0; 16 << 20]));
    let (put, took) = timed(setting.store.put(&key(), body, Condition::None)).await;
    // 16 MiB take this long at 256 KiB/s, and the limit for a whole call comes on top.
    assert!(matches!(put, Err(Error::Unavailable(_))) && took > Duration::from_secs(64), "{took:?}");
    setting.store.head(&key()).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn the_breaker_closes_by_itself_when_the_store_is_back() {
    let setting = Setting::new();
    setting.faults.fails_with(Fault::Unavailable);
    assert!(setting.store.head(&key()).await.is_err());
    assert!(setting.store.head(&key()).await.is_err());
    setting.assert_metric("remora_store_breaker{store=\"memory:faults\"} 2");
    let calls = setting.faults.calls();
    sleep(Duration::from_secs(60)).await;
    let probes = setting.faults.calls() - calls;
    assert!((8..30).contains(&probes), "{probes} probes in a minute");
    // It does not matter how long the store was away.
    sleep(Duration::from_secs(24 * 3600)).await;
    setting.faults.fails_with(Fault::None);
    let (_, took) = timed(setting.store.wait_until_available()).await;
    assert!(took < Duration::from_secs(6), "{took:?}");
    setting.store.head(&key()).await.unwrap();
    setting.assert_metric("remora_store_breaker{store=\"memory:faults\"} 0");
}

#[tokio::test(start_paused = true)]
async fn each_state_of_the_breaker_is_told() {
    let ((log, _guard), setting) = (Log::capture(), Setting::new());
    let breaker = "remora_store_breaker{store=\"memory:faults\"}";
    setting.assert_metric(&format!("{breaker} 0"));
    setting.faults.fails_with(Fault::Silence);
    setting.store.head(&key()).await.unwrap_err();
    setting.assert_metric(&format!("{breaker} 2"));
    // The first probe has been sent by now, and waits.
    sleep(Duration::from_secs(1)).await;
    setting.assert_metric(&format!("{breaker} 1"));
    let refused = setting.store.head(&key()).await;
    assert!(matches!(&refused, Err(Error::Unavailable(why)) if why.contains("breaker")), "no caller is the probe: {refused:?}");
    setting.faults.fails_with(Fault::None);
    setting.store.wait_until_available().await;
    setting.assert_metric(&format!("{breaker} 0"));
    for line in ["memory:faults does not answer: calls fail at once", "memory:faults answers again after"] {
        assert_eq!(log.lines(line).len(), 1, "{line}");
    }
}

#[tokio::test(start_paused = true)]
async fn single_faults_are_tried_again_unseen() {
    let setting = Setting::new();
    setting.faults.fails_with(Fault::Unavailable);
    let store = Arc::clone(&setting.store);
    let faults = setting.faults.clone();
    let mend = async {
        sleep(Duration::from_millis(100)).await;
        faults.fails_with(Fault::None);
    };
    let (put, ()) = tokio::join!(setting.put(), mend);
    put.unwrap();
    store.head(&key()).await.unwrap();
    setting.assert_metric("remora_store_breaker{store=\"memory:faults\"} 0");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_the_store_refuses_is_not_tried_again() {
    let setting = Setting::new();
    let missing = setting.store.head(&Key::new("", "missing")).await;
    assert!(matches!(missing, Err(Error::NotFound(_))));
    assert_eq!(setting.faults.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_refused_call_is_signed_again_once() {
    let setting = Setting::new();
    setting.faults.fails_with(Fault::Expired);
    setting.put().await.unwrap();
    assert_eq!(setting.faults.calls(), 2);
    setting.assert_metric("remora_store_retries_total{store=\"memory:faults\",reason=\"denied\"} 1");
}

#[tokio::test(start_paused = true)]
async fn a_call_that_is_refused_again_is_given_up() {
    let setting = Setting::new();
    setting.faults.fails_with(Fault::Denied);
    assert!(matches!(setting.put().await, Err(Error::Denied(_))));
    assert_eq!(setting.faults.calls(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_in_time_while_the_store_only_throttles() {
    let setting = Setting::with(Policy { max_requests: 1, ..Policy::default() });
    setting.faults.fails_with(Fault::Throttle(1));
    let (put, took) = timed(setting.put()).await;
    assert!(matches!(&put, Err(Error::Exhausted(why)) if why.contains("SlowDown")), "{put:?}");
    assert!(took < Policy::default().deadlines.total && setting.faults.calls() == 8, "{took:?}, {} tries", setting.faults.calls());

    // Another call has the only slot for more than a minute.
    let key = key();
    setting.faults.fails_with(Fault::SilentWrites);
    let body = Body::Bytes(Bytes::from(vec![0; 16 << 20]));
    let second = async {
        sleep(Duration::from_secs(1)).await;
        timed(setting.store.head(&key)).await
    };
    let (_, (head, took)) = tokio::join!(setting.store.put(&key, body, Condition::None), second);
    assert!(matches!(&head, Err(Error::Exhausted(why)) if why.contains("throttling")), "{head:?}");
    assert_eq!(took, Policy::default().deadlines.total);
    setting.assert_metric("remora_store_breaker{store=\"memory:faults\"} 0");
}

#[tokio::test(start_paused = true)]
async fn a_store_that_throttles_is_asked_for_less_and_no_call_fails() {
    let setting = Setting::with(Policy { max_requests: 64, ..Policy::default() });
    setting.faults.fails_with(Fault::Throttle(3));
    let outcomes = join_all((0..500).map(|_| setting.put())).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    setting.faults.most_at_once();
    join_all((0..100).map(|_| setting.put())).await;
    assert!(setting.faults.most_at_once() < 16);
    assert!(!setting.store.has_headroom());
    setting.faults.fails_with(Fault::None);
    for _ in 0..40 {
        join_all((0..100).map(|_| setting.put())).await;
    }
    setting.faults.most_at_once();
    join_all((0..100).map(|_| setting.put())).await;
    assert_eq!(setting.faults.most_at_once(), 64);
    assert!(setting.store.has_headroom());
    setting.assert_metric("remora_store_breaker{store=\"memory:faults\"} 0");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_stalls_ends_and_a_reader_that_pauses_does_not() {
    let setting = Setting::new();
    let mut paused = setting.store.get(&key(), None, None).await.unwrap().body;
    paused.next().await.unwrap().unwrap();
    sleep(Duration::from_secs(3600)).await;
    while let Some(chunk) = paused.next().await {
        chunk.unwrap();
    }
    setting.faults.fails_with(Fault::Stall);
    let mut stalled = setting.store.get(&key(), None, None).await.unwrap().body;
    stalled.next().await.unwrap().unwrap();
    let (next, took) = timed(stalled.next()).await;
    assert!(matches!(&next, Some(Err(Error::Unavailable(why))) if why.contains("stalled")), "{next:?}");
    assert_eq!(took, Policy::default().deadlines.stall);
    assert!(stalled.next().await.is_none());
}
