//! The download half of the transfer engine: exact bytes whatever breaks, and bounds on what it takes.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, TryStreamExt, stream};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use remora::metrics::Metrics;
use remora::store::{Body, ByteStream, Condition, Error, GuardedStore, Object, S3};
use remora::transfer::{Downloads, RANGE_BYTES};
use remora::types::{ByteRange, Key};

use crate::support::guarded::guarded;
use crate::support::ranged_store::{Answer, CHUNK_BYTES, RangedStore};
use crate::support::s3_config::minio_config;

const MEMORY: u64 = 128 << 20;

pub(crate) fn content(len: u64, seed: u64) -> Bytes {
    // Cheap to make, and no two ranges are alike: a prime length fits into none of them.
    let mut block = [0; 65_537];
    StdRng::seed_from_u64(seed).fill(&mut block[..]);
    let mut bytes = block.repeat(len as usize / block.len() + 1);
    bytes.truncate(len as usize);
    bytes.into()
}

fn key() -> Key {
    Key::new("blobs/", "key")
}

async fn get(downloads: &Downloads, store: &RangedStore, range: Option<ByteRange>) -> Result<Object, Error> {
    downloads.get(&store.shared(), &key(), range).await
}

async fn read(downloads: &Downloads, store: &RangedStore, range: Option<ByteRange>) -> Result<Bytes, Error> {
    collect(get(downloads, store, range).await?.body).await
}

async fn collect(body: ByteStream) -> Result<Bytes, Error> {
    Ok(body.try_collect::<Vec<_>>().await?.concat().into())
}

fn slice(bytes: &Bytes, range: ByteRange) -> Bytes {
    bytes.slice(range.start() as usize..(range.end() as usize).min(bytes.len()))
}

#[tokio::test]
async fn any_range_of_any_size_comes_exactly() {
    let mut random = StdRng::seed_from_u64(1);
    let downloads = Downloads::new(MEMORY, Metrics::default());
    for len in [0, 1, CHUNK_BYTES, RANGE_BYTES - 1, RANGE_BYTES, RANGE_BYTES + 1, 3 * RANGE_BYTES, 5 * RANGE_BYTES + 12_345] {
        let bytes = content(len, len);
        let store = RangedStore::new(bytes.clone()).slow(Duration::from_millis(5), Duration::ZERO);
        let whole = get(&downloads, &store, None).await.unwrap();
        assert_eq!((whole.meta.size, whole.range), (len, ByteRange::new(0, len)), "{len}");
        assert!(collect(whole.body).await.unwrap() == bytes, "{len}");
        for _ in 0..if len == 0 { 0 } else { 4 } {
            let start = random.random_range(0..len);
            let range = ByteRange::new(start, start + random.random_range(1..=2 * len)).unwrap();
            let part = get(&downloads, &store, Some(range)).await.unwrap();
            assert_eq!((part.meta.size, part.range), (len, ByteRange::new(start, range.end().min(len))), "{range:?} of {len}");
            assert!(collect(part.body).await.unwrap() == slice(&bytes, range), "{range:?} of {len}");
        }
        let behind = get(&downloads, &store, ByteRange::new(len, len + 1)).await;
        assert!(matches!(behind, Err(Error::Invalid(_))), "{behind:?}");
        assert_eq!(store.seen().open, 0);
    }
}

#[tokio::test]
async fn a_small_object_is_one_request_and_a_large_one_is_aligned_and_pinned() {
    let downloads = Downloads::new(MEMORY, Metrics::default());
    let store = RangedStore::new(content(1000, 2));
    read(&downloads, &store, None).await.unwrap();
    assert_eq!(store.seen().gets, [(ByteRange::new(0, RANGE_BYTES), None)]);

    let store = RangedStore::new(content(2 * RANGE_BYTES + 9, 2));
    let found = get(&downloads, &store, ByteRange::new(5, u64::MAX)).await.unwrap();
    let version = Some(found.meta.etag);
    collect(found.body).await.unwrap();
    let mut gets = store.seen().gets;
    gets.sort_by_key(|(range, _)| range.map(ByteRange::start));
    let expected =
        [(5, RANGE_BYTES, None), (RANGE_BYTES, 2 * RANGE_BYTES, version.clone()), (2 * RANGE_BYTES, 2 * RANGE_BYTES + 9, version)];
    assert_eq!(gets, expected.map(|(start, end, version)| (ByteRange::new(start, end), version)));
}

#[tokio::test]
async fn a_read_that_breaks_off_goes_on_where_it_broke() {
    let downloads = Downloads::new(MEMORY, Metrics::default());
    let bytes = content(6 * RANGE_BYTES + 77, 3);
    let read_with_faults = |seed: u64| {
        let downloads = downloads.clone();
        let bytes = bytes.clone();
        async move {
            let mut random = StdRng::seed_from_u64(seed);
            // Only what broke is asked for a second time.
            let store = RangedStore::new(bytes.clone()).without_headroom().slow(Duration::from_millis(20), Duration::ZERO);
            let store = store.with_answers(move |range| {
                let offset = random.random_range(0..range.len());
                match random.random_range(0..10) {
                    0 => Answer::BreaksAfter(offset),
                    1 => Answer::EndsAfter(offset),
                    // Before the first answer no version is known to go on with. The store itself repeats that request.
                    2 if range.start() > 0 => Answer::Refused(|| Error::Exhausted("503 SlowDown".to_owned())),
                    3 if range.start() > 0 => Answer::Refused(|| Error::Unavailable("500".to_owned())),
                    _ => Answer::Good,
                }
            });
            assert!(read(&downloads, &store, None).await.unwrap() == bytes, "seed {seed}");
            let seen = store.seen();
            assert_eq!(seen.sent, bytes.len() as u64, "seed {seed}: bytes were fetched twice");
            seen.gets.iter().filter(|(range, _)| range.unwrap().start() % RANGE_BYTES > 0).count()
        }
    };
    let resumed: Vec<usize> = stream::iter(0..10).map(read_with_faults).buffer_unordered(10).collect().await;
    assert!(resumed.iter().sum::<usize>() > 10, "{resumed:?}");
}

#[tokio::test]
async fn a_small_read_goes_on_too() {
    let downloads = Downloads::new(MEMORY, Metrics::default());
    let bytes = content(CHUNK_BYTES, 4);
    let mut tries = 0;
    let store = RangedStore::new(bytes.clone()).with_answers(move |_| {
        tries += 1;
        if tries < 4 { Answer::BreaksAfter(100) } else { Answer::Good }
    });
    assert_eq!(read(&downloads, &store, None).await.unwrap(), bytes);
    let starts: Vec<_> = store.seen().gets.iter().map(|(range, _)| range.unwrap().start()).collect();
    assert_eq!(starts, [0, 100, 200, 300]);
}

#[tokio::test]
async fn a_range_that_never_comes_is_given_up() {
    let downloads = Downloads::new(MEMORY, Metrics::default());
    let bytes = content(4 * RANGE_BYTES, 5);
    let answers = [
        (Answer::EndsAfter(0), 7),
        (Answer::Refused(|| Error::Unavailable("dead".to_owned())), 7),
        (Answer::Refused(|| Error::Denied("gone".to_owned())), 1),
        (Answer::Refused(|| Error::NotFound("deleted".to_owned())), 1),
    ];
    let give_up = |(answer, requests): (Answer, usize)| {
        let downloads = &downloads;
        let bytes = &bytes;
        async move {
            let told = answer.clone();
            let store = RangedStore::new(bytes.clone())
                .with_answers(move |range| if range.start() >= 2 * RANGE_BYTES { told.clone() } else { Answer::Good });
            let mut body = get(downloads, &store, None).await.unwrap().body;
            let mut received = Vec::new();
            let error = loop {
                match body.next().await.unwrap() {
                    Ok(chunk) => received.extend_from_slice(&chunk),
                    Err(error) => break error,
                }
            };
            let told = matches!(error, Error::Unavailable(_) | Error::Denied(_) | Error::NotFound(_));
            assert!(told && received == bytes[..2 * RANGE_BYTES as usize], "{answer:?}: {error}");
            assert!(body.next().await.is_none(), "{answer:?}");
            let asked = store.seen().gets.iter().filter(|(range, _)| range.unwrap().start() == 2 * RANGE_BYTES).count();
            assert_eq!(asked, requests, "{answer:?}");
            assert_eq!(store.seen().open, 0);
        }
    };
    stream::iter(answers).for_each_concurrent(None, give_up).await;
}

#[tokio::test]
async fn versions_are_never_mixed() {
    let downloads = Downloads::new(MEMORY, Metrics::default());
    let (before, after) = (content(8 * RANGE_BYTES, 6), content(8 * RANGE_BYTES, 7));
    for taken in [0, 1, 200, 400] {
        let store = RangedStore::new(before.clone());
        let mut body = get(&downloads, &store, None).await.unwrap().body;
        let mut received = Vec::new();
        for _ in 0..taken {
            received.extend_from_slice(&body.next().await.unwrap().unwrap());
        }
        store.replace(after.clone());
        let error = loop {
            match body.next().await.unwrap() {
                Ok(chunk) => received.extend_from_slice(&chunk),
                Err(error) => break error,
            }
        };
        assert!(matches!(error, Error::Precondition(_)), "{error}");
        assert!(before.starts_with(&received), "after {taken} chunks");
    }
}

#[tokio::test]
async fn the_window_follows_the_reader() {
    let downloads = Downloads::new(MEMORY, Metrics::default());
    // This store is slower than its reader.
    let store = RangedStore::new(content(12 * RANGE_BYTES, 8)).slow(Duration::from_millis(20), Duration::from_millis(1));
    read(&downloads, &store, None).await.unwrap();
    assert!(store.seen().most_open >= 8, "{}", store.seen().most_open);

    // This store is faster than its reader: one range is enough, or two at first.
    let store = RangedStore::new(content(12 * RANGE_BYTES, 8));
    let mut body = get(&downloads, &store, None).await.unwrap().body;
    let mut received = 0;
    while let Some(chunk) = body.next().await {
        received += chunk.unwrap().len() as u64;
        tokio::time::sleep(Duration::from_millis(1)).await;
        let seen = store.seen();
        assert!(seen.open <= 2 && seen.sent - received <= 2 * RANGE_BYTES, "{} bytes ahead, {} open", seen.sent - received, seen.open);
    }
    assert_eq!(received, 12 * RANGE_BYTES);
}

#[tokio::test]
async fn a_body_that_is_dropped_asks_for_nothing_more() {
    let downloads = Downloads::new(MEMORY, Metrics::default());
    let store = RangedStore::new(content(12 * RANGE_BYTES, 9)).slow(Duration::from_millis(20), Duration::from_millis(1));
    let mut body = get(&downloads, &store, None).await.unwrap().body;
    for _ in 0..100 {
        body.next().await.unwrap().unwrap();
    }
    assert!(store.seen().open > 2);
    drop(body);
    let asked = store.seen().gets.len();
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert_eq!((store.seen().open, store.seen().gets.len()), (0, asked));
    // All of the memory is free again, for as wide a window.
    read(&downloads, &store, None).await.unwrap();
    assert!(store.seen().most_open >= 8);
}

#[tokio::test]
async fn many_readers_stay_within_the_budget_and_all_of_them_end() {
    const READERS: u64 = 12;
    let bytes = content(3 * RANGE_BYTES, 10);
    for memory in [RANGE_BYTES / 2, 4 * RANGE_BYTES] {
        let downloads = Downloads::new(memory, Metrics::default());
        let store = RangedStore::new(bytes.clone()).slow(Duration::from_millis(20), Duration::from_millis(1));
        let received = Arc::new(std::sync::atomic::AtomicU64::new(0));
        let reader = |index: u64| {
            let downloads = downloads.clone();
            let store = store.clone();
            let bytes = bytes.clone();
            let received = Arc::clone(&received);
            async move {
                let mut body = get(&downloads, &store, None).await.unwrap().body;
                let mut at = 0;
                while let Some(chunk) = body.next().await {
                    let chunk = chunk.unwrap();
                    assert!(bytes[at..].starts_with(&chunk));
                    at += chunk.len();
                    let all = received.fetch_add(chunk.len() as u64, std::sync::atomic::Ordering::Relaxed) + chunk.len() as u64;
                    let held = store.seen().sent - all;
                    assert!(held <= memory + READERS * CHUNK_BYTES, "{held} bytes held of {memory}");
                    // Some readers are slower than others.
                    if index.is_multiple_of(3) {
                        tokio::time::sleep(Duration::from_millis(2)).await;
                    }
                }
                assert_eq!(at, bytes.len());
            }
        };
        stream::iter(0..READERS).for_each_concurrent(None, reader).await;
        assert_eq!(store.seen().open, 0);
    }
}

#[tokio::test]
async fn readers_that_pause_do_not_keep_the_memory_from_others() {
    let downloads = Downloads::new(4 * RANGE_BYTES, Metrics::default());
    let bytes = content(12 * RANGE_BYTES, 11);
    let slow = || RangedStore::new(bytes.clone()).slow(Duration::from_millis(20), Duration::from_millis(1));
    let (paused, busy) = (slow(), slow());
    let mut body = get(&downloads, &paused, None).await.unwrap().body;
    let mut received = Vec::new();
    while paused.seen().sent - (received.len() as u64) < 2 * RANGE_BYTES {
        received.extend_from_slice(&body.next().await.unwrap().unwrap());
    }
    // Long enough to count as idle.
    tokio::time::sleep(Duration::from_millis(2500)).await;
    read(&downloads, &busy, None).await.unwrap();
    assert!(busy.seen().most_open >= 4, "{} at once beside a reader that does not read", busy.seen().most_open);
    // It goes on as if nothing had happened.
    received.extend_from_slice(&collect(body).await.unwrap());
    assert!(received == bytes);
}

#[tokio::test]
async fn a_real_s3_serves_ranges_of_one_version() {
    let config = minio_config();
    let store: Arc<dyn GuardedStore> = Arc::new(guarded(S3::connect(config).await.unwrap()));
    let downloads = Downloads::new(MEMORY, Metrics::default());
    let bytes = content(5 * RANGE_BYTES + 321, 12);
    store.put(&key(), Body::Bytes(bytes.clone()), Condition::None).await.unwrap();
    let mut random = StdRng::seed_from_u64(12);
    for round in 0..6 {
        let start = if round == 0 { 0 } else { random.random_range(0..bytes.len() as u64) };
        let range = ByteRange::new(start, i64::MAX as u64).unwrap();
        let object = downloads.get(&store, &key(), Some(range)).await.unwrap();
        assert_eq!(object.range, ByteRange::new(start, bytes.len() as u64));
        assert!(collect(object.body).await.unwrap() == slice(&bytes, range), "{range:?}");
    }
    let mut changing = downloads.get(&store, &key(), None).await.unwrap().body;
    changing.next().await.unwrap().unwrap();
    store.put(&key(), Body::Bytes(content(5 * RANGE_BYTES, 13)), Condition::None).await.unwrap();
    let outcome = collect(changing).await;
    assert!(matches!(outcome, Err(Error::Precondition(_))), "{outcome:?}");

    let empty = Key::new("blobs/", "empty");
    store.put(&empty, Body::Bytes(Bytes::new()), Condition::None).await.unwrap();
    let object = downloads.get(&store, &empty, None).await.unwrap();
    assert_eq!((object.meta.size, object.range), (0, None));
    assert_eq!(collect(object.body).await.unwrap(), "");
}
