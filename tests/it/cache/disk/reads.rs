//! Who reads what: one fetch for all, parts of blobs, and those who may not.

use futures_util::TryStreamExt as _;
use remora::cache::{BlobRead, Error};
use remora::types::{ByteRange, Digest, Grant};

use super::{MIB, Rig, blob};
use crate::support::cache::{blob_key, collect, scope_below};

/// Reads on until `wanted` bytes have come.
async fn take(read: &mut BlobRead, wanted: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    while bytes.len() < wanted {
        bytes.extend_from_slice(&read.body.try_next().await.unwrap().expect("more"));
    }
    bytes
}

#[tokio::test]
async fn one_fetch_serves_all_who_read_at_once_and_the_first_streams_while_it_goes_on() {
    let rig = Rig::new().await;
    let blob = blob(0, 20 * MIB + 77);
    let digest = rig.plant(&blob);
    rig.store.limit(&blob_key(&digest), 5 * MIB);
    let mut readers = Vec::new();
    for _ in 0..16 {
        let mut read = rig.open(&rig.grant, &digest, None).await.unwrap();
        let begun = take(&mut read, 4 * MIB).await;
        assert_eq!(begun, blob[..begun.len()]);
        readers.push((read, begun));
    }
    rig.store.limit(&blob_key(&digest), usize::MAX);
    for (read, begun) in readers {
        let rest = collect(read).await.unwrap();
        assert!([begun.as_slice(), &rest].concat() == *blob);
    }
    assert_eq!(rig.gets(), 3, "20 MiB in ranges of 8");
    assert_eq!((rig.metric("disk_cache_misses_total"), rig.metric("disk_cache_hits_total")), (1, 15));
    rig.eventually("the blob is kept", |rig| rig.kept(&[digest]) == [true] && rig.drafts() == 0).await;
    assert!(rig.read(&digest).await.unwrap() == blob);
    assert_eq!(rig.gets(), 0);
    assert!(rig.metric("disk_cache_read_bytes_total") >= 16 * blob.len() as u64);
}

#[tokio::test]
async fn the_last_chunk_waits_for_the_digest() {
    let rig = Rig::new().await;
    let good = blob(1, 3 * MIB);
    let digest = Digest::of(&good);
    let mut bad = good.to_vec();
    bad[MIB] ^= 1;
    rig.store.plant(&blob_key(&digest), bad.into(), time::OffsetDateTime::now_utc());
    for _ in 0..2 {
        let mut came = 0;
        let mut end = Ok(());
        match rig.open(&rig.grant, &digest, None).await {
            Ok(mut read) => loop {
                match read.body.try_next().await {
                    Ok(Some(chunk)) => came += chunk.len(),
                    Ok(None) => break,
                    Err(error) => {
                        end = Err(error);
                        break;
                    }
                }
            },
            Err(error) => end = Err(error),
        }
        assert!(matches!(end, Err(Error::Corrupt(_) | Error::NotFound(_))) && came <= 2 * MIB, "{came}: {end:?}");
    }
    rig.end().await;
    assert_eq!((rig.kept(&[digest]), rig.drafts()), (vec![false], 0));
    assert_eq!((rig.metric("blobs_corrupt_total"), rig.metric("disk_cache_fills_total")), (1, 0));
}

#[tokio::test]
async fn ranges_are_served_from_disk_and_alone_store_nothing_there() {
    let rig = Rig::new().await;
    let blob = blob(2, 3 * MIB + 5);
    let digest = rig.plant(&blob);
    assert!(rig.read_range(&digest, 10, 20).await.unwrap() == blob[10..20]);
    assert_eq!((rig.gets(), rig.metric("disk_cache_fills_total")), (1, 0), "a part is no reason to fetch all");

    let end = i64::MAX as usize;
    assert!(rig.read_range(&digest, 0, end).await.unwrap() == blob, "all of it, in other words");
    rig.eventually("it is kept", |rig| rig.metric("disk_cache_fills_total") == 1).await;
    rig.gets();
    for (start, end) in [(0, 1), (5, MIB), (MIB - 1, MIB + 1), (MIB, 2 * MIB), (2 * MIB + 3, end), (3 * MIB + 4, end), (0, blob.len())] {
        let part = rig.read_range(&digest, start, end).await.unwrap();
        assert!(part == blob[start..end.min(blob.len())], "{start} to {end}");
    }
    for start in [blob.len(), blob.len() + 1, 10 * MIB] {
        let behind = rig.read_range(&digest, start, end).await;
        assert!(matches!(behind, Err(Error::OutOfRange(_))), "{start}: {behind:?}");
    }
    assert_eq!(rig.gets(), 0);
}

#[tokio::test]
async fn a_range_follows_a_fetch_that_is_near() {
    let rig = Rig::new().await;
    let blob = blob(3, 40 * MIB);
    let digest = rig.plant(&blob);
    rig.store.limit(&blob_key(&digest), 2 * MIB);
    let mut whole = rig.open(&rig.grant, &digest, None).await.unwrap();
    take(&mut whole, MIB).await;
    let near = rig.open(&rig.grant, &digest, ByteRange::new(4 * MIB as u64 + 1, 9 * MIB as u64)).await.unwrap();
    let far = rig.open(&rig.grant, &digest, ByteRange::new(35 * MIB as u64, 36 * MIB as u64)).await.unwrap();
    rig.store.limit(&blob_key(&digest), usize::MAX);
    assert!(collect(near).await.unwrap() == blob[4 * MIB + 1..9 * MIB]);
    assert!(collect(far).await.unwrap() == blob[35 * MIB..36 * MIB]);
    collect(whole).await.unwrap();
    assert_eq!((rig.metric("disk_cache_misses_total"), rig.metric("disk_cache_hits_total")), (2, 1), "the far part asks the bucket");
}

#[tokio::test]
async fn a_fetch_that_nobody_follows_ends_and_leaves_nothing() {
    let rig = Rig::new().await;
    let blob = blob(4, 20 * MIB);
    let digest = rig.plant(&blob);
    rig.store.limit(&blob_key(&digest), 3 * MIB);
    let mut first = rig.open(&rig.grant, &digest, None).await.unwrap();
    let mut second = rig.open(&rig.grant, &digest, None).await.unwrap();
    take(&mut first, MIB).await;
    drop(first);
    take(&mut second, MIB).await;
    assert_eq!(rig.drafts(), 1);
    drop(second);
    rig.eventually("the fetch ends", |rig| rig.drafts() == 0 && rig.store.reads().borrow().open == 0).await;
    rig.store.limit(&blob_key(&digest), usize::MAX);
    assert!(rig.read(&digest).await.unwrap() == blob, "and the next one begins anew");
}

#[tokio::test]
async fn a_blob_that_becomes_another_version_is_read_on() {
    let rig = Rig::new().await;
    let blob = blob(8, 20 * MIB);
    let digest = rig.plant(&blob);
    rig.store.limit(&blob_key(&digest), 3 * MIB);
    let mut read = rig.open(&rig.grant, &digest, None).await.unwrap();
    let begun = take(&mut read, 2 * MIB).await;
    // In S3, a copy onto itself does this to an object that was uploaded in parts.
    rig.store.plant_version(&blob_key(&digest), blob.clone(), time::OffsetDateTime::now_utc(), "copied");
    rig.store.limit(&blob_key(&digest), usize::MAX);
    let rest = collect(read).await.unwrap();
    assert!([begun.as_slice(), &rest].concat() == *blob);
}

#[tokio::test]
async fn a_client_that_cannot_read_the_object_cannot_read_it_from_disk() {
    let rig = Rig::new().await;
    let blob = blob(5, MIB);
    let digest = rig.plant(&blob);
    assert!(rig.read(&digest).await.unwrap() == blob);
    rig.eventually("it is kept", |rig| rig.metric("disk_cache_fills_total") == 1).await;
    let elsewhere = rig.open(&Grant::operator(scope_below("team/")), &digest, None).await;
    assert!(matches!(elsewhere, Err(Error::NotFound(_))), "{elsewhere:?}");
    rig.store.remove(&blob_key(&digest));
    assert!(matches!(rig.read(&digest).await, Err(Error::NotFound(_))), "what is gone from the bucket is gone");
}

#[tokio::test]
async fn a_deleted_blob_is_dropped_also_while_it_is_fetched() {
    let rig = Rig::new().await;
    let blobs = [blob(6, MIB), blob(7, 3 * MIB)];
    let digests = blobs.clone().map(|blob| rig.plant(&blob));
    rig.read(&digests[0]).await.unwrap();
    rig.eventually("it is kept", |rig| rig.kept(&digests) == [true, false]).await;
    rig.store.limit(&blob_key(&digests[1]), 2 * MIB);
    let mut read = rig.open(&rig.grant, &digests[1], None).await.unwrap();
    take(&mut read, MIB).await;
    for digest in &digests {
        rig.cache.blobs().delete(&rig.grant, digest).await.unwrap();
    }
    assert_eq!(rig.kept(&digests), [false, false]);
    for digest in &digests {
        assert!(matches!(rig.read(digest).await, Err(Error::NotFound(_))), "a fetch that goes on is for those who had begun");
    }
    rig.store.limit(&blob_key(&digests[1]), usize::MAX);
    collect(read).await.expect("who has begun to read gets all of it");
    rig.end().await;
    assert_eq!((rig.kept(&digests), rig.drafts()), (vec![false, false], 0));
}
