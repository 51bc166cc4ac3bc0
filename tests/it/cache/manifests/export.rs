//! Exports to one name: what they keep of each other, and what they cost.

use std::sync::Arc;

use bytes::Bytes;
use remora::cache::{CacheConfig, Condition, Error};
use remora::types::Rights;
use time::OffsetDateTime;

use super::{key, plant};
use crate::support::cache::{Fixture, HOUR, MAX_RECORDS, PAST_LOOKUP, Setup, build, name};
use crate::support::documents::{chain, digest, meaning, newest};
use crate::support::fault_store::FaultStore;
use crate::support::log::Log;
use crate::support::memory_store::{Conditions, MemoryStore};

/// A cache over a store in which every call takes a while, so that calls of several exporters overlap.
async fn over_slow(store: &MemoryStore) -> Fixture {
    Setup::through(Arc::new(FaultStore::new(store.clone())), store.clone()).start_merging(HOUR).await
}

#[tokio::test]
async fn exporters_to_one_name_keep_each_others_results() {
    let fixture = Fixture::merging(HOUR).await;
    let other = Setup::over(fixture.store.clone()).start_merging(HOUR).await;
    let stages: Vec<[String; 3]> = (0..8).map(|stage| ["base".to_owned(), format!("{stage}a"), format!("{stage}b")]).collect();
    stages.iter().flatten().for_each(|blob| plant(&fixture, blob));
    let documents: Vec<Bytes> =
        stages.iter().map(|steps| chain(&steps.each_ref().map(String::as_str), OffsetDateTime::now_utc())).collect();
    let puts = documents
        .iter()
        .enumerate()
        .map(|(index, document)| if index % 2 == 0 { fixture.publish(document) } else { other.publish(document) });
    for put in futures_util::future::join_all(puts).await {
        put.unwrap();
    }
    let stored = meaning(&fixture.published());
    assert_eq!(stored.len(), 1 + 8 * 2);
    for document in &documents {
        let own = newest(&CacheConfig::parse(document).unwrap());
        assert!(own.keys().all(|key| stored.contains_key(key)));
    }
    // Results whose blobs are gone are not inherited, nor are those that do not fit.
    fixture.store.remove(&key("3b"));
    tokio::time::sleep(PAST_LOOKUP).await;
    fixture.publish(&documents[0]).await.unwrap();
    assert_eq!(meaning(&fixture.published()).len(), 16);
    let many: Vec<String> = (0..30).map(|step| format!("many{step}")).collect();
    many.iter().for_each(|blob| plant(&fixture, blob));
    fixture.publish(&chain(&many.iter().map(String::as_str).collect::<Vec<_>>(), OffsetDateTime::now_utc())).await.unwrap();
    assert!((MAX_RECORDS - 2..=MAX_RECORDS).contains(&fixture.published().records().len()));
}

#[tokio::test]
async fn exporters_that_meet_in_the_store_lose_nothing_and_the_log_says_so() {
    let ((log, _guard), store) = (Log::capture(), MemoryStore::default());
    // Two processes share one bucket.
    let [left, right] = [over_slow(&store).await, over_slow(&store).await];
    let steps: Vec<String> = (0..8).map(|step| format!("step {step}")).collect();
    steps.iter().for_each(|step| plant(&left, step));
    let documents: Vec<Bytes> = steps.iter().map(|step| chain(&[step], OffsetDateTime::UNIX_EPOCH)).collect();
    let puts =
        documents.iter().enumerate().map(|(index, document)| if index % 2 == 0 { left.publish(document) } else { right.publish(document) });
    for put in futures_util::future::join_all(puts).await {
        put.unwrap();
    }
    assert_eq!(meaning(&left.published()).len(), 8);
    let metrics = left.metrics.encode() + &right.metrics.encode();
    let conflicts: usize =
        metrics.lines().filter_map(|line| line.strip_prefix("remora_manifest_conflicts_total ")?.parse::<usize>().ok()).sum();
    assert!(conflicts > 0);
    assert_eq!(log.lines("another exporter published app at this moment").len(), conflicts);
}

#[tokio::test]
async fn a_put_with_a_condition_replaces_or_fails() {
    let fixture = Fixture::merging(HOUR).await;
    ["a", "b"].iter().for_each(|blob| plant(&fixture, blob));
    let (first, second) = (chain(&["a"], OffsetDateTime::UNIX_EPOCH), chain(&["b"], OffsetDateTime::UNIX_EPOCH));
    let put = async |document: &Bytes, condition| {
        fixture.cache.manifests().publish(&build(Rights::EXPORT).build(), &name(), document.clone(), condition).await
    };
    let etag = put(&first, Condition::Absent).await.unwrap();
    assert!(matches!(put(&second, Condition::Absent).await, Err(Error::Conflict(_))));
    put(&second, Condition::Matches(etag)).await.unwrap();
    assert_eq!(fixture.store.bytes("manifests/app").unwrap(), second);
}

#[tokio::test]
async fn a_store_without_conditional_writes_still_merges_what_one_process_puts() {
    for conditions in [Conditions::Refused, Conditions::Ignored] {
        let (log, _guard) = Log::capture();
        let fixture = over_slow(&MemoryStore::new(conditions)).await;
        ["a", "b", "c"].iter().for_each(|blob| plant(&fixture, blob));
        let documents = ["a", "b", "c"].map(|step| chain(&[step], OffsetDateTime::UNIX_EPOCH));
        for put in futures_util::future::join_all(documents.iter().map(|document| fixture.publish(document))).await {
            put.unwrap();
        }
        assert_eq!(meaning(&fixture.published()).len(), 3);
        assert_eq!(fixture.store.calls().puts, 4, "the store is asked once whether it knows conditions");
        assert_eq!(log.lines("bucket bucket knows no conditional writes").len(), 1);
    }
}

#[tokio::test]
async fn an_export_of_what_is_there_costs_few_calls() {
    let fixture = Fixture::merging(HOUR).await;
    let steps: Vec<String> = (0..60).map(|step| format!("step {step}")).collect();
    steps.iter().for_each(|blob| plant(&fixture, blob));
    let sent = chain(&steps.iter().map(String::as_str).collect::<Vec<_>>(), OffsetDateTime::UNIX_EPOCH);
    fixture.publish(&sent).await.unwrap();
    tokio::time::sleep(PAST_LOOKUP).await;
    fixture.store.calls();
    for step in &steps {
        fixture.cache.blobs().stat(&build(Rights::EXPORT).build(), &digest(step)).await.unwrap();
    }
    fixture.publish(&sent).await.unwrap();
    let calls = fixture.store.calls();
    assert_eq!((calls.heads, calls.gets, calls.puts, calls.lists), (0, 1, 1, 1), "{calls:?}");
    assert_eq!(fixture.store.bytes("manifests/app").unwrap(), sent, "byte for byte");
}

#[tokio::test]
async fn what_is_no_manifest_is_not_replaced_by_one() {
    let large = vec![b'x'; 2 << 20];
    for found in [&b"not a manifest"[..], b"[]", b"{\"layers\":1}", &large] {
        for fixture in [Fixture::merging(HOUR).await, Fixture::new(|settings| settings.max_manifest_bytes = 1 << 20).await] {
            fixture.store.plant("manifests/app", Bytes::copy_from_slice(found), OffsetDateTime::now_utc());
            plant(&fixture, "layer");
            let document = chain(&["layer"], OffsetDateTime::now_utc());
            let etag = fixture.cache.manifests().stat(&fixture.grant, &name()).await.unwrap().etag;
            for condition in [Condition::None, Condition::Matches(etag)] {
                let refused = fixture.cache.manifests().publish(&fixture.grant, &name(), document.clone(), condition).await;
                assert!(matches!(&refused, Err(Error::Denied(why)) if why.contains("bucket/manifests/app")), "{refused:?}");
            }
            let refused = fixture.cache.manifests().publish(&fixture.grant, &name(), document, Condition::Absent).await;
            assert!(matches!(refused, Err(Error::Conflict(_))), "{refused:?}");
            assert_eq!(fixture.store.bytes("manifests/app").unwrap(), found);
        }
    }
}
