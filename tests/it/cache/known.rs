//! What is known of blobs without asking the store, and how many calls the rest costs.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use remora::cache::{Cache, Condition, Error};
use remora::shutdown::Shutdown;
use remora::types::{Digest, Documents, Grant, ManifestName, Rights, Scope};
use time::OffsetDateTime;

use crate::cache::manifests::{Bench, document};
use crate::support::fault_store::FaultStore;
use crate::support::memory_store::{Calls, MemoryStore};

fn blobs(count: usize) -> Vec<Digest> {
    (0..count).map(|index| Digest::of(&index.to_le_bytes())).collect()
}

fn plant(store: &MemoryStore, digest: &Digest) {
    store.plant(&format!("blobs/{digest}"), Bytes::from_static(b"bytes"), OffsetDateTime::now_utc());
}

fn scope() -> Scope {
    Scope::new("bucket".parse().unwrap(), "").unwrap()
}

fn name() -> ManifestName {
    "app".parse().unwrap()
}

fn export() -> Grant {
    Grant::builder(scope(), Rights::EXPORT).names(&[name()]).build()
}

/// What the publish check of a manifest says that names `wanted`, and what it costs.
async fn checked(cache: &Cache, store: &MemoryStore, wanted: &[Digest]) -> (Result<(), Error>, Calls) {
    store.calls();
    let put = cache.put_manifest(&Grant::operator(scope()), &name(), document(wanted, &[]), Condition::Absent).await;
    let calls = store.calls();
    if put.is_ok() {
        cache.delete_manifest(&Grant::operator(scope()), &name()).await.unwrap();
    }
    (put.map(|_| ()), calls)
}

#[tokio::test]
async fn blobs_are_checked_by_pages_or_one_by_one_whichever_is_less() {
    for (stored, wanted, max_lists, max_heads) in [
        (3, 3, 0, 3),
        (60, 60, 1, 0),
        (900, 900, 1, 0),
        (20_000, 100, 1, 100),
        (20_000, 4, 0, 4),
        (5_000, 500, 8, 20),
        (2_500, 2_500, 5, 20),
    ] {
        let all = blobs(stored);
        let bench = Bench::new(Duration::from_secs(600)).await;
        all.iter().for_each(|digest| plant(&bench.store, digest));
        let (put, calls) = checked(&bench.cache, &bench.store, &all[..wanted]).await;
        put.unwrap();
        assert!(calls.lists <= max_lists && calls.heads <= max_heads, "{wanted} of {stored}: {calls:?}");

        bench.store.remove(&format!("blobs/{}", all[wanted / 2]));
        tokio::time::sleep(Duration::from_millis(501)).await;
        let (put, _) = checked(&bench.cache, &bench.store, &all[..wanted]).await;
        let error = put.unwrap_err().to_string();
        assert!(error.contains("1 blobs that are not stored") && error.contains(&all[wanted / 2].to_string()), "{error}");
    }
}

#[tokio::test]
async fn lookups_one_by_one_are_many_at_once_and_not_too_many() {
    let memory = MemoryStore::default();
    let slow = FaultStore::new(memory.clone());
    let bench = Bench::through(Arc::new(slow.clone()), memory, Duration::from_secs(600)).await;
    // So many that no page of a listing has enough of those that are wanted.
    let all = blobs(40_000);
    all.iter().for_each(|digest| plant(&bench.store, digest));
    let (put, calls) = checked(&bench.cache, &bench.store, &all[..200]).await;
    put.unwrap();
    assert!(calls.heads > 100, "{calls:?}");
    let most = slow.most_at_once();
    assert!((32..=64).contains(&most), "{most} at once");
}

#[tokio::test]
async fn imports_that_come_together_share_one_check() {
    let bench = Bench::new(Duration::from_secs(600)).await;
    let all = blobs(60);
    all.iter().for_each(|digest| plant(&bench.store, digest));
    bench.store.plant("manifests/app", document(&all, &[]), OffsetDateTime::now_utc());
    let import = Grant::builder(scope(), Rights::IMPORT).names(&[name()]).build();
    // A blob may be gone half a second later: then all are looked up again.
    for (pause, lists) in [(Duration::ZERO, 1), (Duration::ZERO, 0), (Duration::from_millis(501), 1)] {
        tokio::time::sleep(pause).await;
        bench.cache.import_manifest(&import, &name()).await.unwrap();
        assert_eq!(bench.store.calls(), Calls { gets: 1, lists, ..Calls::default() });
    }
}

#[tokio::test]
async fn foreign_objects_among_the_blobs_are_not_taken_for_them() {
    let bench = Bench::new(Duration::from_secs(600)).await;
    for index in 0..3000 {
        bench.store.plant(&format!("blobs/sha256:{index:064x}.old"), Bytes::new(), OffsetDateTime::now_utc());
    }
    let all = blobs(40);
    all[1..].iter().for_each(|digest| plant(&bench.store, digest));
    let (put, calls) = checked(&bench.cache, &bench.store, &all).await;
    assert!(put.unwrap_err().to_string().contains(&all[0].to_string()), "{calls:?}");
}

#[tokio::test]
async fn a_build_is_answered_from_memory_and_nobody_else() {
    let bench = Bench::new(Duration::from_secs(600)).await;
    let (cache, store, operator) = (&bench.cache, &bench.store, Grant::operator(scope()));
    let bytes = Bytes::from_static(b"layer");
    let digest = Digest::of(&bytes);
    let body = stream::iter([Ok(bytes.clone())]).boxed();
    cache.put_blob(&operator, &digest, 5, body).await.unwrap();
    store.calls();
    assert_eq!(cache.stat_blob(&export(), &digest).await.unwrap().size, 5);
    assert!(matches!(cache.open_ingest(&export(), "ref", 5, Some(digest)).await, Err(Error::AlreadyExists(_))));
    assert_eq!(store.calls(), Calls::default());
    cache.stat_blob(&operator, &digest).await.unwrap();
    assert_eq!(store.calls().heads, 1);
    // In another scope nothing is known of it.
    let elsewhere = Grant::builder(Scope::new("bucket".parse().unwrap(), "x/").unwrap(), Rights::EXPORT).names(&[name()]).build();
    assert!(matches!(cache.stat_blob(&elsewhere, &digest).await, Err(Error::NotFound(_))));

    cache.delete_blob(&operator, &digest).await.unwrap();
    assert!(matches!(cache.stat_blob(&export(), &digest).await, Err(Error::NotFound(_))));
    plant(store, &digest);
    cache.stat_blob(&export(), &digest).await.unwrap();
    store.remove(&format!("blobs/{digest}"));
    cache.stat_blob(&export(), &digest).await.unwrap();
    assert!(cache.read_blob(&operator, &digest, None).await.is_err());
    assert!(matches!(cache.stat_blob(&export(), &digest).await, Err(Error::NotFound(_))), "a read that finds nothing is remembered");
    assert!(bench.metrics.encode().contains("remora_memory_answers_total 3"), "{}", bench.metrics.encode());
}

#[tokio::test]
async fn what_was_seen_too_long_ago_is_asked_for_again() {
    let bench = Bench::new(Duration::ZERO).await;
    let digest = Digest::of(b"layer");
    plant(&bench.store, &digest);
    for _ in 0..2 {
        bench.cache.stat_blob(&export(), &digest).await.unwrap();
    }
    assert_eq!(bench.store.calls().heads, 2);
}

#[tokio::test]
async fn the_first_question_of_an_exporter_looks_up_the_last_export() {
    let bench = Bench::new(Duration::from_secs(600)).await;
    let all = blobs(60);
    all.iter().for_each(|digest| plant(&bench.store, digest));
    bench.store.plant("manifests/app", document(&all, &[]), OffsetDateTime::now_utc());
    for digest in &all {
        bench.cache.stat_blob(&export(), digest).await.unwrap();
    }
    assert_eq!(bench.store.calls(), Calls { gets: 1, lists: 1, ..Calls::default() });
    // What is new is asked for, and nothing else again.
    assert!(bench.cache.stat_blob(&export(), &Digest::of(b"new")).await.is_err());
    assert_eq!(bench.store.calls(), Calls { heads: 1, ..Calls::default() });
}

#[tokio::test]
async fn an_old_blob_is_made_young_once_and_off_the_builds_path() {
    let bench = Bench::new(Duration::from_secs(600)).await;
    let digest = Digest::of(b"old");
    let key = format!("blobs/{digest}");
    bench.store.plant(&key, Bytes::from_static(b"old"), OffsetDateTime::UNIX_EPOCH);
    for _ in 0..3 {
        let found = bench.cache.find_to_reuse(&export(), &digest).await.unwrap();
        assert!(OffsetDateTime::now_utc() - found.modified < Duration::from_secs(60));
    }
    assert_eq!(bench.store.calls().touches, 0);
    let shutdown = Shutdown::default();
    shutdown.spawn(bench.cache.clone().touch_in_background(shutdown.clone()));
    let touched = async {
        while bench.cache.stat_blob(&Grant::operator(scope()), &digest).await.unwrap().modified == OffsetDateTime::UNIX_EPOCH {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), touched).await.unwrap();
    shutdown.drain();
    assert!(shutdown.finish(Duration::from_secs(10)).await);
    assert_eq!(bench.store.calls().touches, 1);
    assert!(bench.metrics.encode().contains("remora_touches_total 1"), "{}", bench.metrics.encode());
}

#[tokio::test]
async fn touches_that_find_no_room_are_dropped_and_counted() {
    let bench = Bench::new(Duration::from_secs(600)).await;
    let digest = Digest::of(b"old");
    plant(&bench.store, &digest);
    let blob = bench.cache.stat_blob(&export(), &digest).await.unwrap();
    for _ in 0..(1 << 14) + 5 {
        bench.cache.touch_later(&export(), blob.clone()).unwrap();
    }
    assert!(bench.metrics.encode().contains("remora_dropped_touches_total 5"), "{}", bench.metrics.encode());
    let import = Grant::builder(scope(), Rights::IMPORT).names(&[name()]).build();
    assert!(matches!(bench.cache.touch_later(&import, blob), Err(Error::Denied(_))));
}

#[tokio::test]
async fn the_end_of_a_blob_that_was_read_is_known_to_those_who_may_read_it() {
    let bench = Bench::new(Duration::from_secs(600)).await;
    let digest = blobs(1)[0];
    plant(&bench.store, &digest);
    let reader = Grant::operator(scope());
    assert_eq!(bench.cache.remembered_size(&reader, &digest).unwrap(), None);
    drop(bench.cache.read_blob(&reader, &digest, None).await.unwrap());
    bench.store.calls();
    assert_eq!(bench.cache.remembered_size(&reader, &digest).unwrap(), Some(5));
    let stranger = Grant::builder(scope(), Rights::IMPORT).names(&[name()]).disclosed_blobs_only().build();
    let denied = bench.cache.remembered_size(&stranger, &digest);
    assert!(matches!(denied, Err(Error::Denied(_))), "{denied:?}");
    assert_eq!(bench.store.calls(), Calls::default());
}

#[tokio::test]
async fn a_session_looks_a_layer_up_once_that_it_announces_and_sends() {
    let bench = Bench::new(Duration::from_secs(600)).await;
    let documents = Arc::new(Documents::new(1 << 20));
    let grant = Grant::builder(scope(), Rights::EXPORT).names(&[name()]).documents(documents).build();
    let digest = Digest::of(b"layer");
    let mut ingest = bench.cache.open_ingest(&grant, "ref", 5, Some(digest)).await.unwrap();
    ingest.write(0, Bytes::from_static(b"layer")).await.unwrap();
    ingest.commit(Some(5), Some(digest), std::collections::BTreeMap::new()).await.unwrap();
    let calls = bench.store.calls();
    assert_eq!((calls.heads, calls.puts), (1, 1), "{calls:?}");
    let again = bench.cache.open_ingest(&grant, "ref", 5, Some(digest)).await;
    assert!(matches!(again, Err(Error::AlreadyExists(_))), "{again:?}");
}
