//! Read-ahead: which blobs are fetched before anybody asks for them, when, and how many.

use bytes::Bytes;
use remora::types::{Digest, Grant, Rights};
use serde_json::json;
use time::OffsetDateTime;

use super::{MIB, Rig, blob};
use crate::support::cache::{PAST_LOOKUP, blob_key, build, collect, name};
use crate::support::documents::chain_of;

fn importer() -> Grant {
    build(Rights::IMPORT).disclosed_blobs_only().build()
}

/// Plants a manifest of one chain, each layer 3 MiB.
fn chain(rig: &Rig, length: u8) -> (Vec<Bytes>, Vec<Digest>) {
    let blobs: Vec<Bytes> = (0..length).map(|layer| blob(layer, 3 * MIB)).collect();
    let digests: Vec<Digest> = blobs.iter().map(|blob| rig.plant(blob)).collect();
    plant_chain(rig, &digests, 3 * MIB);
    (blobs, digests)
}

fn plant_chain(rig: &Rig, digests: &[Digest], size: usize) {
    let layers: Vec<_> = digests.iter().map(|digest| (*digest, size)).collect();
    rig.store.plant("manifests/app", chain_of(&layers), OffsetDateTime::now_utc());
}

/// A build that has been served the manifest.
async fn import(rig: &Rig) -> Grant {
    let grant = importer();
    rig.cache.manifests().import(&grant, &name()).await.unwrap();
    rig.gets();
    grant
}

async fn read(rig: &Rig, grant: &Grant, digest: &Digest) -> Bytes {
    collect(rig.open(grant, digest, None).await.unwrap()).await.unwrap()
}

/// How many layers were read ahead and are complete.
fn read_ahead_layers(rig: &Rig) -> u64 {
    rig.metric("read_ahead_bytes_total") / (3 * MIB as u64)
}

#[tokio::test]
async fn a_chain_is_fetched_when_one_of_it_is_read() {
    let rig = Rig::new().await;
    let (blobs, digests) = chain(&rig, 6);
    let grant = import(&rig).await;
    assert!(read(&rig, &grant, &digests[2]).await == blobs[2]);
    rig.eventually("all are there", |rig| rig.metric("disk_cache_fills_total") == 6 && read_ahead_layers(rig) == 5).await;
    assert_eq!(rig.gets(), 6, "one request each");
    for (digest, blob) in digests.iter().zip(&blobs) {
        assert!(read(&rig, &grant, digest).await == *blob);
    }
    rig.end().await;
    let calls = rig.store.calls();
    assert_eq!((calls.gets, calls.heads, rig.metric("read_ahead_wasted_bytes_total")), (0, 0, 0));
}

#[tokio::test]
async fn the_lowest_layer_comes_first_and_nothing_before_what_is_asked_for() {
    let rig = Rig::with(|disk| disk.read_ahead_fetches = 2).await;
    let (_, digests) = chain(&rig, 5);
    for digest in &digests {
        rig.store.limit(&blob_key(digest), MIB);
    }
    let grant = import(&rig).await;
    // There are two readers. That is as many fetches as there may be, so nothing is read ahead yet.
    let mut reads = vec![rig.open(&grant, &digests[4], None).await.unwrap()];
    assert_eq!(rig.store.reads().borrow().begun, 1 + 2, "the manifest, the layer and the lowest of the others");
    reads.push(rig.open(&grant, &digests[3], None).await.unwrap());
    for step in [4, 3, 0] {
        rig.store.limit(&blob_key(&digests[step]), usize::MAX);
        rig.eventually("one is done", |rig| rig.kept(&digests)[step]).await;
        if step == 4 {
            assert_eq!(rig.kept(&digests), [false, false, false, false, true], "its place was not free yet");
        }
    }
    for digest in &digests {
        rig.store.limit(&blob_key(digest), usize::MAX);
    }
    rig.eventually("all are there", |rig| rig.metric("disk_cache_fills_total") == 5).await;
    drop(reads);
}

#[tokio::test]
async fn no_more_is_read_ahead_than_the_budget_allows_until_a_reader_takes_it() {
    let rig = Rig::with(|disk| disk.read_ahead = 7 * MIB as u64).await;
    let (blobs, digests) = chain(&rig, 5);
    let grant = import(&rig).await;
    read(&rig, &grant, &digests[4]).await;
    rig.eventually("two are there", |rig| rig.metric("disk_cache_fills_total") == 3).await;
    assert_eq!(rig.kept(&digests), [true, true, false, false, true]);
    assert!(read(&rig, &grant, &digests[0]).await == blobs[0]);
    rig.eventually("one more", |rig| rig.metric("disk_cache_fills_total") == 4 && read_ahead_layers(rig) == 3).await;
    assert_eq!(rig.kept(&digests), [true, true, true, false, true]);
    rig.end().await;
    assert_eq!(rig.metric("read_ahead_wasted_bytes_total") / (3 * MIB as u64), 2, "the second and the third");
}

#[tokio::test]
async fn without_a_budget_nothing_is_read_ahead_not_even_of_unknown_size() {
    let rig = Rig::with(|disk| disk.read_ahead = 0).await;
    let (blobs, digests) = chain(&rig, 3);
    plant_chain(&rig, &digests, 0);
    let grant = import(&rig).await;
    assert!(read(&rig, &grant, &digests[0]).await == blobs[0]);
    rig.eventually("it is kept", |rig| rig.kept(&digests[..1]) == [true]).await;
    assert_eq!((rig.gets(), rig.kept(&digests)), (1, vec![true, false, false]));
}

#[tokio::test]
async fn bytes_that_were_read_ahead_and_evicted_unread_are_counted() {
    let rig = Rig::with(|disk| disk.max_size = 7 * MIB as u64).await;
    let (_, digests) = chain(&rig, 2);
    let grant = import(&rig).await;
    read(&rig, &grant, &digests[0]).await;
    rig.eventually("both are there", |rig| rig.kept(&digests) == [true, true]).await;
    let other = [rig.plant(&blob(90, 3 * MIB)), rig.plant(&blob(91, 3 * MIB))];
    for digest in &other {
        rig.read(digest).await.unwrap();
        rig.eventually("it is kept", |rig| rig.kept(&[*digest]) == [true]).await;
    }
    assert_eq!(rig.kept(&digests), [false, false]);
    assert_eq!(rig.metric("read_ahead_wasted_bytes_total") / (3 * MIB as u64), 1);
}

#[tokio::test]
async fn a_blob_that_is_being_read_ahead_is_hurried_for_a_reader() {
    let rig = Rig::new().await;
    let blobs = [blob(1, MIB), blob(2, 40 * MIB)];
    let digests = blobs.clone().map(|blob| rig.plant(&blob));
    let layer = |index: usize| {
        let annotations = json!({ "mediaType": "x", "diffID": digests[index].to_string(), "size": blobs[index].len() });
        json!({ "blob": digests[index].to_string(), "parent": index as i64 - 1, "annotations": annotations })
    };
    let manifest = json!({ "layers": [layer(0), layer(1)], "records": [] }).to_string();
    rig.store.plant("manifests/app", manifest.into(), OffsetDateTime::now_utc());
    rig.store.limit(&blob_key(&digests[1]), 3 * MIB);
    let grant = import(&rig).await;
    read(&rig, &grant, &digests[0]).await;
    rig.eventually("it is on its way", |rig| rig.drafts() == 1).await;
    assert_eq!(rig.gets(), 2);
    let asked = rig.open(&grant, &digests[1], None).await.unwrap();
    rig.eventually("it is hurried", |rig| rig.store.reads().borrow().begun > 3).await;
    rig.store.limit(&blob_key(&digests[1]), usize::MAX);
    assert!(collect(asked).await.unwrap() == blobs[1]);
    assert!(rig.gets() > 1, "what was left, in ranges");
    rig.end().await;
    assert_eq!(rig.metric("read_ahead_wasted_bytes_total"), 0);
}

#[tokio::test]
async fn the_end_does_not_wait_for_what_nobody_reads() {
    let rig = Rig::new().await;
    let (_, digests) = chain(&rig, 2);
    rig.store.limit(&blob_key(&digests[1]), 2 * MIB);
    let grant = import(&rig).await;
    read(&rig, &grant, &digests[0]).await;
    rig.eventually("half of it has come", |rig| rig.store.reads().borrow().bytes >= 5 * MIB as u64).await;
    rig.eventually("the first is kept", |rig| rig.kept(&digests) == [true, false]).await;
    rig.end().await;
    assert_eq!(rig.kept(&digests), [true, false]);
    // A write that was under way deletes its draft when it ends.
    rig.eventually("no draft is left", |rig| rig.drafts() == 0).await;
    let wasted = rig.metric("read_ahead_wasted_bytes_total");
    assert!(wasted <= 2 * MIB as u64 && wasted == rig.metric("read_ahead_bytes_total"), "{wasted}");
}

/// What is only on the disk is not promised to a build, but what was promised is served from there.
#[tokio::test]
async fn a_layer_that_is_gone_from_the_bucket_is_not_promised_but_a_promise_is_kept() {
    let rig = Rig::new().await;
    let (blobs, digests) = chain(&rig, 1);
    let grant = import(&rig).await;
    read(&rig, &grant, &digests[0]).await;
    rig.eventually("it is kept", |rig| rig.kept(&digests) == [true]).await;
    rig.store.remove(&blob_key(&digests[0]));
    assert!(read(&rig, &grant, &digests[0]).await == blobs[0]);
    tokio::time::sleep(PAST_LOOKUP).await;
    let served = rig.cache.manifests().import(&importer(), &name()).await.unwrap();
    assert!(served.config.layers().is_empty(), "the bucket decides");
}
