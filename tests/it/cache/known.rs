//! What is known of blobs without asking the store, and how many calls it takes to learn what is not.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use remora::cache::{Cache, Condition, Error};
use remora::shutdown::Shutdown;
use remora::types::{Digest, Documents, Grant, Rights};
use time::OffsetDateTime;

use crate::support::cache::{Fixture, PAST_LOOKUP, Setup, blob_key, build, name, operator, scope_below};
use crate::support::documents::document;
use crate::support::fault_store::FaultStore;
use crate::support::memory_store::{Calls, MemoryStore};

/// For this long a blob that was seen in the store is taken to be there.
const AGE: Duration = Duration::from_secs(600);

fn blobs(count: usize) -> Vec<Digest> {
    (0..count).map(|index| Digest::of(&index.to_le_bytes())).collect()
}

fn export() -> Grant {
    build(Rights::EXPORT).build()
}

/// Publishes a manifest that names `wanted`. Returns whether that is allowed, and which calls the check took.
async fn checked(cache: &Cache, store: &MemoryStore, wanted: &[Digest]) -> (Result<(), Error>, Calls) {
    store.calls();
    let put = cache.manifests().publish(&operator(), &name(), document(wanted, &[]), Condition::Absent).await;
    let calls = store.calls();
    if put.is_ok() {
        cache.manifests().delete(&operator(), &name()).await.unwrap();
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
        let fixture = Fixture::merging(AGE).await;
        all.iter().for_each(|digest| fixture.plant_stand_in(digest));
        let (put, calls) = checked(&fixture.cache, &fixture.store, &all[..wanted]).await;
        put.unwrap();
        assert!(calls.lists <= max_lists && calls.heads <= max_heads, "{wanted} of {stored}: {calls:?}");

        fixture.store.remove(&format!("blobs/{}", all[wanted / 2]));
        tokio::time::sleep(PAST_LOOKUP).await;
        let (put, _) = checked(&fixture.cache, &fixture.store, &all[..wanted]).await;
        let error = put.unwrap_err().to_string();
        assert!(error.contains("1 blobs that are not stored") && error.contains(&all[wanted / 2].to_string()), "{error}");
    }
}

#[tokio::test]
async fn lookups_one_by_one_are_many_at_once_and_not_too_many() {
    let memory = MemoryStore::default();
    let slow = FaultStore::new(memory.clone());
    let fixture = Setup::through(Arc::new(slow.clone()), memory).start_merging(AGE).await;
    // There are so many blobs that no page of a listing has enough of the wanted ones.
    let all = blobs(40_000);
    all.iter().for_each(|digest| fixture.plant_stand_in(digest));
    let (put, calls) = checked(&fixture.cache, &fixture.store, &all[..200]).await;
    put.unwrap();
    assert!(calls.heads > 100, "{calls:?}");
    let most = slow.most_at_once();
    assert!((32..=64).contains(&most), "{most} at once");
}

#[tokio::test]
async fn imports_that_come_together_share_one_check() {
    let fixture = Fixture::merging(AGE).await;
    let all = blobs(60);
    all.iter().for_each(|digest| fixture.plant_stand_in(digest));
    fixture.store.plant("manifests/app", document(&all, &[]), OffsetDateTime::now_utc());
    let import = build(Rights::IMPORT).build();
    // A blob may be gone half a second later: then all are looked up again.
    for (pause, lists) in [(Duration::ZERO, 1), (Duration::ZERO, 0), (PAST_LOOKUP, 1)] {
        tokio::time::sleep(pause).await;
        fixture.cache.manifests().import(&import, &name()).await.unwrap();
        assert_eq!(fixture.store.calls(), Calls { gets: 1, lists, ..Calls::default() });
    }
}

#[tokio::test]
async fn foreign_objects_among_the_blobs_are_not_taken_for_blobs() {
    let fixture = Fixture::merging(AGE).await;
    for index in 0..3000 {
        fixture.store.plant(&format!("blobs/sha256:{index:064x}.old"), Bytes::new(), OffsetDateTime::now_utc());
    }
    let all = blobs(40);
    all[1..].iter().for_each(|digest| fixture.plant_stand_in(digest));
    let (put, calls) = checked(&fixture.cache, &fixture.store, &all).await;
    assert!(put.unwrap_err().to_string().contains(&all[0].to_string()), "{calls:?}");
}

#[tokio::test]
async fn a_build_is_answered_from_memory_and_nobody_else() {
    let fixture = Fixture::merging(AGE).await;
    let cache = &fixture.cache;
    let store = &fixture.store;
    let operator = operator();
    let bytes = Bytes::from_static(b"layer");
    let digest = Digest::of(&bytes);
    let body = stream::iter([Ok(bytes.clone())]).boxed();
    cache.blobs().put(&operator, &digest, 5, body).await.unwrap();
    store.calls();
    assert_eq!(cache.blobs().stat(&export(), &digest).await.unwrap().size, 5);
    assert!(matches!(cache.ingests().open_writer(&export(), "ref", 5, Some(digest)).await, Err(Error::AlreadyExists(_))));
    assert_eq!(store.calls(), Calls::default());
    cache.blobs().stat(&operator, &digest).await.unwrap();
    assert_eq!(store.calls().heads, 1);
    // Nothing is known of the blob in another scope.
    let elsewhere = Grant::builder(scope_below("x/"), Rights::EXPORT).names(&[name()]).build();
    assert!(matches!(cache.blobs().stat(&elsewhere, &digest).await, Err(Error::NotFound(_))));

    cache.blobs().delete(&operator, &digest).await.unwrap();
    assert!(matches!(cache.blobs().stat(&export(), &digest).await, Err(Error::NotFound(_))));
    fixture.plant_stand_in(&digest);
    cache.blobs().stat(&export(), &digest).await.unwrap();
    store.remove(&blob_key(&digest));
    cache.blobs().stat(&export(), &digest).await.unwrap();
    assert!(cache.blobs().read(&operator, &digest, None).await.is_err());
    assert!(matches!(cache.blobs().stat(&export(), &digest).await, Err(Error::NotFound(_))), "a read that finds nothing is remembered");
    assert!(fixture.metrics.encode().contains("remora_memory_answers_total 3"), "{}", fixture.metrics.encode());
}

#[tokio::test]
async fn a_blob_that_was_seen_too_long_ago_is_looked_up_again() {
    let fixture = Fixture::merging(Duration::ZERO).await;
    let digest = Digest::of(b"layer");
    fixture.plant_stand_in(&digest);
    for _ in 0..2 {
        fixture.cache.blobs().stat(&export(), &digest).await.unwrap();
    }
    assert_eq!(fixture.store.calls().heads, 2);
}

#[tokio::test]
async fn the_first_question_of_an_exporter_looks_up_the_last_export() {
    let fixture = Fixture::merging(AGE).await;
    let all = blobs(60);
    all.iter().for_each(|digest| fixture.plant_stand_in(digest));
    fixture.store.plant("manifests/app", document(&all, &[]), OffsetDateTime::now_utc());
    for digest in &all {
        fixture.cache.blobs().stat(&export(), digest).await.unwrap();
    }
    assert_eq!(fixture.store.calls(), Calls { gets: 1, lists: 1, ..Calls::default() });
    // Only a blob that is new to the name is looked up.
    assert!(fixture.cache.blobs().stat(&export(), &Digest::of(b"new")).await.is_err());
    assert_eq!(fixture.store.calls(), Calls { heads: 1, ..Calls::default() });
}

#[tokio::test]
async fn an_old_blob_is_touched_once_and_in_the_background() {
    let fixture = Fixture::merging(AGE).await;
    let digest = Digest::of(b"old");
    let key = blob_key(&digest);
    fixture.store.plant(&key, Bytes::from_static(b"old"), OffsetDateTime::UNIX_EPOCH);
    for _ in 0..3 {
        let found = fixture.cache.blobs().find_to_reuse(&export(), &digest).await.unwrap();
        assert!(OffsetDateTime::now_utc() - found.modified < Duration::from_secs(60));
    }
    assert_eq!(fixture.store.calls().touches, 0);
    let shutdown = Shutdown::default();
    shutdown.spawn(fixture.cache.background().touch(shutdown.clone()));
    let touched = async {
        while fixture.cache.blobs().stat(&operator(), &digest).await.unwrap().modified == OffsetDateTime::UNIX_EPOCH {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), touched).await.unwrap();
    shutdown.drain();
    assert!(shutdown.finish(Duration::from_secs(10)).await);
    assert_eq!(fixture.store.calls().touches, 1);
    assert!(fixture.metrics.encode().contains("remora_touches_total 1"), "{}", fixture.metrics.encode());
}

#[tokio::test]
async fn touches_that_find_no_room_are_dropped_and_counted() {
    let fixture = Fixture::merging(AGE).await;
    let digest = Digest::of(b"old");
    fixture.plant_stand_in(&digest);
    let blob = fixture.cache.blobs().stat(&export(), &digest).await.unwrap();
    for _ in 0..(1 << 14) + 5 {
        fixture.cache.blobs().touch_later(&export(), blob.clone()).unwrap();
    }
    assert!(fixture.metrics.encode().contains("remora_dropped_touches_total 5"), "{}", fixture.metrics.encode());
    let import = build(Rights::IMPORT).build();
    assert!(matches!(fixture.cache.blobs().touch_later(&import, blob), Err(Error::Denied(_))));
}

#[tokio::test]
async fn the_size_of_a_blob_that_was_read_is_known_to_those_who_may_read_it() {
    let fixture = Fixture::merging(AGE).await;
    let digest = blobs(1)[0];
    fixture.plant_stand_in(&digest);
    let reader = operator();
    assert_eq!(fixture.cache.blobs().remembered_size(&reader, &digest).unwrap(), None);
    drop(fixture.cache.blobs().read(&reader, &digest, None).await.unwrap());
    fixture.store.calls();
    assert_eq!(fixture.cache.blobs().remembered_size(&reader, &digest).unwrap(), Some(5));
    let stranger = build(Rights::IMPORT).disclosed_blobs_only().build();
    let denied = fixture.cache.blobs().remembered_size(&stranger, &digest);
    assert!(matches!(denied, Err(Error::Denied(_))), "{denied:?}");
    assert_eq!(fixture.store.calls(), Calls::default());
}

#[tokio::test]
async fn a_session_looks_up_a_layer_once_that_it_announces_and_sends() {
    let fixture = Fixture::merging(AGE).await;
    let documents = Arc::new(Documents::new(1 << 20));
    let grant = build(Rights::EXPORT).documents(documents).build();
    let digest = Digest::of(b"layer");
    let mut ingest = fixture.cache.ingests().open_writer(&grant, "ref", 5, Some(digest)).await.unwrap();
    ingest.write(0, Bytes::from_static(b"layer")).await.unwrap();
    ingest.commit(Some(5), Some(digest), std::collections::BTreeMap::new()).await.unwrap();
    let calls = fixture.store.calls();
    assert_eq!((calls.heads, calls.puts), (1, 1), "{calls:?}");
    let again = fixture.cache.ingests().open_writer(&grant, "ref", 5, Some(digest)).await;
    assert!(matches!(again, Err(Error::AlreadyExists(_))), "{again:?}");
}
