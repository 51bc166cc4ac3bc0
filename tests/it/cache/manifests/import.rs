//! What an import is served where blobs are lost, or the store does not say.

use std::sync::Arc;

use bytes::Bytes;
use remora::cache::{CacheConfig, Error};
use remora::types::Rights;
use time::OffsetDateTime;

use super::{key, plant};
use crate::support::cache::{Fixture, HOUR, PAST_LOOKUP, Setup, build, name};
use crate::support::documents::{chain, digest};
use crate::support::fault_store::{Fault, FaultStore};
use crate::support::memory_store::MemoryStore;

#[tokio::test]
async fn an_import_is_served_only_results_whose_blobs_are_there() {
    let fixture = Fixture::merging(HOUR).await;
    ["a", "b", "c", "x", "y"].iter().for_each(|blob| plant(&fixture, blob));
    let sent = chain(&["a", "b", "c"], OffsetDateTime::UNIX_EPOCH);
    fixture.publish(&sent).await.unwrap();
    let import = build(Rights::IMPORT).build();
    let whole = fixture.cache.manifests().import(&import, &name()).await.unwrap();
    assert_eq!(whole.bytes, sent, "byte for byte");

    tokio::time::sleep(PAST_LOOKUP).await;
    fixture.store.remove(&key("b"));
    let pruned = fixture.cache.manifests().import(&import, &name()).await.unwrap();
    assert_eq!(CacheConfig::parse(&pruned.bytes).unwrap(), pruned.config);
    assert_eq!(pruned.config.blobs().into_keys().collect::<Vec<_>>(), [digest("a")]);
    assert_eq!((pruned.config.records().len(), pruned.etag), (1, whole.etag));
    assert_eq!(import.usage().pruned_layers(), 2);
    assert_eq!(fixture.cache.manifests().get(&import, &name()).await.unwrap().bytes, sent, "what is stored stays");
    // A blob that is cut short counts as lost.
    fixture.store.plant(&key("a"), Bytes::from_static(b"by"), OffsetDateTime::now_utc());
    tokio::time::sleep(PAST_LOOKUP).await;
    assert!(fixture.cache.manifests().import(&import, &name()).await.unwrap().config.records().is_empty());
    let metrics = fixture.metrics.encode();
    for line in ["remora_pruned_manifests_total 2", "remora_pruned_layers_total 5", "remora_pruned_records_total 5"] {
        assert!(metrics.contains(line), "{metrics}");
    }
}

#[tokio::test]
async fn a_blob_that_the_store_does_not_answer_for_is_not_promised() {
    let memory = MemoryStore::default();
    let faults = FaultStore::new(memory.clone());
    let fixture = Setup::through(Arc::new(faults.clone()), memory).start_merging(HOUR).await;
    ["a", "b"].iter().for_each(|blob| plant(&fixture, blob));
    let sent = chain(&["a", "b"], OffsetDateTime::UNIX_EPOCH);
    fixture.publish(&sent).await.unwrap();
    let import = build(Rights::IMPORT).build();
    for (fault, records) in [(Fault::UnavailableLookups, 0), (Fault::None, 2)] {
        tokio::time::sleep(PAST_LOOKUP).await;
        faults.fails_with(fault);
        let served = fixture.cache.manifests().import(&import, &name()).await.unwrap();
        assert_eq!(served.config.records().len(), records, "{fault:?}");
    }
}

#[tokio::test]
async fn a_blob_that_vanished_behind_an_exporters_back_is_not_promised() {
    let fixture = Fixture::merging(HOUR).await;
    ["a", "b"].iter().for_each(|blob| plant(&fixture, blob));
    fixture.cache.blobs().stat(&build(Rights::EXPORT).build(), &digest("b")).await.unwrap();
    fixture.store.remove(&key("b"));
    fixture.cache.blobs().stat(&build(Rights::EXPORT).build(), &digest("b")).await.unwrap();
    tokio::time::sleep(PAST_LOOKUP).await;
    fixture.publish(&chain(&["a", "b"], OffsetDateTime::UNIX_EPOCH)).await.unwrap();
    assert_eq!(fixture.published().blobs().into_keys().collect::<Vec<_>>(), [digest("a")]);
    assert!(fixture.cache.blobs().stat(&build(Rights::EXPORT).build(), &digest("b")).await.is_err(), "the next export sends it");
    // Naming a blob that was never there is the exporter's mistake.
    let error = fixture.publish(&chain(&["a", "c"], OffsetDateTime::UNIX_EPOCH)).await.unwrap_err();
    assert!(matches!(error, Error::Precondition(_)), "{error}");
}
