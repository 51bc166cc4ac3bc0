//! Blobs whose stored bytes do not have their digest are never served whole, and are not promised to a build.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use remora::cache::{BlobRead, CacheConfig, Condition, Error};
use remora::shutdown::Shutdown;
use remora::types::{ByteRange, Digest, Rights};
use time::OffsetDateTime;

use crate::support::cache::{Fixture, PAST_LOOKUP, Setup, blob_key, build, name, operator};
use crate::support::documents::document;
use crate::support::memory_store::MemoryStore;

const AGE: Duration = Duration::from_secs(600);

/// A blob of a few of the store's chunks, the last of them short.
fn bytes(seed: u8) -> Bytes {
    (0..200_000_u32).map(|index| index as u8 ^ seed).collect()
}

fn flipped(bytes: &Bytes) -> Bytes {
    let mut flipped = bytes.to_vec();
    flipped[100_000] ^= 1;
    flipped.into()
}

/// Reads a blob. Returns the bytes that came, and how the read ended.
async fn read(fixture: &Fixture, digest: &Digest, range: Option<ByteRange>) -> (Vec<u8>, Result<(), Error>) {
    let BlobRead { mut body, .. } = match fixture.cache.blobs().read(&operator(), digest, range).await {
        Ok(read) => read,
        Err(error) => return (Vec::new(), Err(error)),
    };
    let mut bytes = Vec::new();
    loop {
        match body.try_next().await {
            Ok(Some(chunk)) => bytes.extend_from_slice(&chunk),
            Ok(None) => return (bytes, Ok(())),
            Err(error) => return (bytes, Err(error)),
        }
    }
}

/// Serves the manifest to a build in a process that knows nothing yet. Returns that process and what was served.
async fn imported(store: &MemoryStore) -> (Fixture, CacheConfig) {
    let fixture = Setup::over(store.clone()).start_merging(AGE).await;
    let grant = build(Rights::IMPORT).build();
    let config = fixture.cache.manifests().import(&grant, &name()).await.unwrap().config;
    (fixture, config)
}

fn blobs(config: &CacheConfig) -> Vec<Digest> {
    config.layers().iter().map(|layer| layer.blob.parse().unwrap()).collect()
}

/// The versions that a manifest vouches for, in the order of its layers.
fn versions(config: &CacheConfig) -> Vec<Option<String>> {
    said(config, "remoraETag")
}

/// The checksums that a manifest has for its `N` layers.
fn checksums<const N: usize>(config: &CacheConfig) -> [Option<String>; N] {
    said(config, "remoraCRC64NVME").try_into().unwrap()
}

fn said(config: &CacheConfig, what: &str) -> Vec<Option<String>> {
    let of = |annotations: &remora::cache::LayerAnnotations| Some(annotations.extra.get(what)?.as_str()?.to_owned());
    config.layers().iter().map(|layer| of(layer.annotations.as_ref()?)).collect()
}

fn stored(store: &MemoryStore) -> CacheConfig {
    CacheConfig::parse(&store.bytes("manifests/app").unwrap()).unwrap()
}

/// A manifest in which every layer is the result of a record of its own, and has the size of the blobs here.
fn manifest(digests: &[Digest]) -> Bytes {
    let records = (0..).zip(digests).map(|(layer, digest)| {
        serde_json::json!({ "layers": [{ "layer": layer, "createdAt": "2026-01-01T00:00:00Z" }], "digest": digest.to_string() })
    });
    let text = String::from_utf8(document(digests, &records.collect::<Vec<_>>()).to_vec()).unwrap();
    text.replace("\"size\":5", "\"size\":200000").into()
}

async fn publish(fixture: &Fixture, digests: &[Digest]) {
    fixture.cache.manifests().publish(&operator(), &name(), manifest(digests), Condition::None).await.unwrap();
}

fn corrupt(fixture: &Fixture) -> u64 {
    fixture.metric("blobs_corrupt_total")
}

#[tokio::test]
async fn a_corrupt_blob_is_not_read_to_its_end_and_is_missing_until_it_is_written_anew() {
    let fixture = Fixture::merging(AGE).await;
    let good = bytes(0);
    let digest = Digest::of(&good);
    fixture.store.plant(&blob_key(&digest), flipped(&good), OffsetDateTime::now_utc());
    fixture.cache.blobs().stat(&operator(), &digest).await.expect("nobody knows yet");

    let (came, end) = read(&fixture, &digest, None).await;
    assert!(matches!(&end, Err(Error::Corrupt(text)) if text.contains(&Digest::of(&flipped(&good)).to_string())), "{end:?}");
    assert!(came.len() < good.len(), "the last chunk is held back");
    assert_eq!(corrupt(&fixture), 1);

    for range in [None, ByteRange::new(0, 200_000), ByteRange::new(5, 10)] {
        assert!(matches!(read(&fixture, &digest, range).await.1, Err(Error::NotFound(_))), "{range:?}");
    }
    assert!(matches!(fixture.cache.blobs().stat(&operator(), &digest).await, Err(Error::NotFound(_))));
    assert!(fixture.cache.blobs().list(&operator(), None, 10).await.unwrap().0.is_empty());
    let put = fixture.cache.manifests().publish(&operator(), &name(), manifest(&[digest]), Condition::None).await;
    assert!(matches!(put, Err(Error::Precondition(_))), "{put:?}");
    assert_eq!(fixture.store.bytes(&blob_key(&digest)).unwrap(), flipped(&good), "it stays for inspection");
    let mut inspected = fixture.cache.blobs().read_stored(&operator(), &digest).await.unwrap().body;
    assert!(inspected.next().await.unwrap().is_ok());
    assert_eq!(corrupt(&fixture), 1, "one blob, however often it is asked for");

    fixture.put(&good).await;
    fixture.cache.blobs().stat(&operator(), &digest).await.unwrap();
    let (came, end) = read(&fixture, &digest, None).await;
    assert!(end.is_ok() && came == good, "{end:?}");
    publish(&fixture, &[digest]).await;
    // The blob is corrupt once more, in another way.
    fixture.store.plant(&blob_key(&digest), bytes(1), OffsetDateTime::now_utc());
    assert!(matches!(read(&fixture, &digest, None).await.1, Err(Error::Corrupt(_))));
    assert_eq!(corrupt(&fixture), 2);
    fixture.cache.blobs().delete(&operator(), &digest).await.unwrap();
    assert_eq!(fixture.store.bytes(&blob_key(&digest)), None, "also one in quarantine can be deleted");
}

/// Reads a blob whose bytes are not those that were verified. The read breaks off before its end.
async fn suspect(fixture: &Fixture, digest: &Digest) {
    let (came, end) = read(fixture, digest, None).await;
    assert!(matches!(&end, Err(Error::Corrupt(text)) if text.contains("CRC-64/NVME")), "{end:?}");
    assert!(came.len() < 200_000, "the last chunk is held back");
}

#[tokio::test]
async fn a_verified_blob_is_checked_each_time_it_is_read() {
    let fixture = Fixture::merging(AGE).await;
    let good = bytes(0);
    let digest = fixture.put(&good).await;
    publish(&fixture, &[digest]).await;
    let version = versions(&stored(&fixture.store))[0].clone().unwrap();
    let (other, _) = imported(&fixture.store).await;
    for process in [&fixture, &other] {
        let comes = |bytes: Bytes| fixture.store.plant_version(&blob_key(&digest), bytes, OffsetDateTime::now_utc(), &version);
        // The byte was changed on the way: the digest decides later, and the blob is not held to be corrupt.
        comes(flipped(&good));
        suspect(process, &digest).await;
        comes(good.clone());
        assert!(read(process, &digest, None).await.1.is_ok());
        // The byte is changed in the store itself.
        comes(flipped(&good));
        suspect(process, &digest).await;
        assert_eq!(corrupt(process), 0);
        let (came, end) = read(process, &digest, None).await;
        assert!(matches!(&end, Err(Error::Corrupt(text)) if text.contains("digest")), "{end:?}");
        assert!(came.len() < good.len());
        assert_eq!(corrupt(process), 1);
        assert!(matches!(read(process, &digest, None).await.1, Err(Error::NotFound(_))));
        comes(good.clone());
    }
}

#[tokio::test]
async fn a_suspect_blob_is_hashed_before_it_is_promised_again() {
    let store = MemoryStore::default();
    let first = Setup::over(store.clone()).start_merging(AGE).await;
    let (a, b) = (bytes(1), bytes(2));
    let digests = [first.put(&a).await, first.put(&b).await];
    publish(&first, &digests).await;
    let version = versions(&stored(&store))[1].clone().unwrap();
    // The manifest has a wrong checksum for the first blob; the second blob is damaged.
    let [crc, other] = checksums(&stored(&store)).map(Option::unwrap);
    let lie = String::from_utf8(store.bytes("manifests/app").unwrap().to_vec()).unwrap().replace(&crc, &other);
    store.plant("manifests/app", lie.into(), OffsetDateTime::now_utc());
    let (fixture, served) = imported(&store).await;
    assert_eq!(blobs(&served), digests, "nobody knows yet");
    store.plant_version(&blob_key(&digests[1]), flipped(&b), OffsetDateTime::now_utc(), &version);
    suspect(&fixture, &digests[0]).await;
    suspect(&fixture, &digests[1]).await;

    tokio::time::sleep(PAST_LOOKUP).await;
    let grant = build(Rights::IMPORT).build();
    let served = fixture.cache.manifests().import(&grant, &name()).await.unwrap();
    assert_eq!(blobs(&served.config), digests[..1]);
    assert_eq!(corrupt(&fixture), 1);
    assert!(read(&fixture, &digests[0], None).await.1.is_ok());
    publish(&fixture, &digests[..1]).await;
    assert_eq!(checksums::<1>(&stored(&store)), [Some(crc)], "what was found out is published");
}

#[tokio::test]
async fn a_quarantined_blob_is_missing_among_many() {
    let fixture = Fixture::merging(AGE).await;
    let good: Vec<Bytes> = (0..60).map(bytes).collect();
    let digests: Vec<Digest> = good.iter().map(|bytes| Digest::of(bytes)).collect();
    for (digest, bytes) in digests.iter().zip(&good) {
        fixture.store.plant(&blob_key(digest), bytes.clone(), OffsetDateTime::now_utc());
    }
    let last = digests.iter().max().unwrap();
    fixture.store.plant(&blob_key(last), flipped(&good[0]), OffsetDateTime::now_utc());
    assert!(read(&fixture, last, None).await.1.is_err());
    fixture.store.calls();
    let put = fixture.cache.manifests().publish(&operator(), &name(), manifest(&digests), Condition::None).await;
    assert!(matches!(&put, Err(Error::Precondition(text)) if text.contains("1 blobs") && text.contains(&last.to_string())), "{put:?}");
    assert_eq!(fixture.store.calls().lists, 1, "they were listed");
}

#[tokio::test]
async fn a_truncated_blob_is_corrupt_and_an_empty_one_is_what_it_is() {
    let fixture = Fixture::merging(AGE).await;
    let good = bytes(0);
    let digest = Digest::of(&good);
    for len in [0, 1, 150_000, 199_999] {
        fixture.store.plant(&blob_key(&digest), good.slice(..len), OffsetDateTime::now_utc());
        let (came, end) = read(&fixture, &digest, None).await;
        assert!(matches!(end, Err(Error::Corrupt(_))), "{len}: {end:?}");
        assert!(came.len() < len.max(1), "{len}");
    }
    assert_eq!(corrupt(&fixture), 4);
    let empty = Digest::of(b"");
    fixture.store.plant(&blob_key(&empty), Bytes::new(), OffsetDateTime::now_utc());
    let (came, end) = read(&fixture, &empty, None).await;
    assert!(end.is_ok() && came.is_empty(), "{end:?}");
}

#[tokio::test]
async fn an_import_leaves_out_a_blob_that_was_changed_into_something_else() {
    let fixture = Fixture::merging(AGE).await;
    let (a, b, c) = (bytes(1), bytes(2), bytes(3));
    let digests = [fixture.put(&a).await, fixture.put(&b).await, fixture.put(&c).await];
    publish(&fixture, &digests).await;
    assert_eq!(versions(&stored(&fixture.store)).iter().flatten().count(), 3);
    let (_, whole) = imported(&fixture.store).await;
    assert_eq!(blobs(&whole), blobs(&stored(&fixture.store)));

    // The second has another byte, the third is another version of the same bytes.
    fixture.store.plant(&blob_key(&digests[1]), flipped(&b), OffsetDateTime::now_utc());
    fixture.store.plant_version(&blob_key(&digests[2]), c.clone(), OffsetDateTime::now_utc(), "copied");
    fixture.store.calls();
    let (other, pruned) = imported(&fixture.store).await;
    let mut left = blobs(&pruned);
    left.sort_unstable();
    let mut expected = vec![digests[0], digests[2]];
    expected.sort_unstable();
    assert_eq!((left, pruned.records().len()), (expected, 2));
    assert_eq!(corrupt(&other), 1);
    assert_eq!(fixture.store.calls().gets, 3, "the manifest, and the two that were changed");
    assert!(matches!(other.cache.blobs().stat(&operator(), &digests[1]).await, Err(Error::NotFound(_))));

    // What was found out is remembered, and is written into the manifest by the next export.
    let grant = build(Rights::IMPORT).build();
    other.cache.manifests().import(&grant, &name()).await.unwrap();
    assert_eq!(fixture.store.calls().gets, 1);
    let new = other.put(&bytes(4)).await;
    publish(&other, &[new]).await;
    let merged = stored(&fixture.store);
    assert!(!blobs(&merged).contains(&digests[1]));
    let at = blobs(&merged).iter().position(|digest| *digest == digests[2]).unwrap();
    assert_eq!(versions(&merged)[at].as_deref(), Some("copied"));
    assert_eq!(versions(&merged).iter().flatten().count(), 3, "the first is inherited with its version");
}

#[tokio::test(start_paused = true)]
async fn a_changed_blob_that_cannot_be_verified_in_time_is_left_out() {
    let fixture = Fixture::merging(AGE).await;
    let (a, b) = (bytes(1), bytes(2));
    let digests = [fixture.put(&a).await, fixture.put(&b).await];
    publish(&fixture, &digests).await;
    for (digest, bytes) in digests.iter().zip([a, b]) {
        fixture.store.plant_version(&blob_key(digest), bytes, OffsetDateTime::now_utc(), "copied");
    }
    fixture.store.stall(&blob_key(&digests[0]));
    let (other, served) = imported(&fixture.store).await;
    assert_eq!(blobs(&served), digests[1..]);
    assert_eq!(corrupt(&other), 0);
    other.cache.blobs().stat(&operator(), &digests[0]).await.expect("it is there: nobody knows anything bad of it");
}

#[tokio::test]
async fn a_native_manifest_is_trusted_until_its_blobs_are_read() {
    let store = MemoryStore::default();
    let (a, b) = (bytes(1), bytes(2));
    let digests = [Digest::of(&a), Digest::of(&b)];
    store.plant(&blob_key(&digests[0]), a.clone(), OffsetDateTime::now_utc());
    store.plant(&blob_key(&digests[1]), flipped(&b), OffsetDateTime::now_utc());
    store.plant("manifests/app", manifest(&digests), OffsetDateTime::now_utc());
    let (fixture, served) = imported(&store).await;
    assert_eq!(blobs(&served), digests);
    assert_eq!(store.calls().gets, 1, "the manifest alone");
    assert!(read(&fixture, &digests[0], None).await.1.is_ok());
    assert!(read(&fixture, &digests[1], None).await.1.is_err());
    tokio::time::sleep(PAST_LOOKUP).await;
    let grant = build(Rights::IMPORT).build();
    let served = fixture.cache.manifests().import(&grant, &name()).await.unwrap();
    assert_eq!(blobs(&served.config), digests[..1]);
    // Where nothing was verified, the manifest is stored as it was sent.
    let fresh = Fixture::merging(AGE).await;
    fresh.store.plant(&blob_key(&digests[0]), a, OffsetDateTime::now_utc());
    publish(&fresh, &digests[..1]).await;
    assert_eq!(fresh.store.bytes("manifests/app").unwrap(), manifest(&digests[..1]));
}

#[tokio::test]
async fn a_touched_blob_is_still_verified() {
    let fixture = Fixture::merging(AGE).await;
    let digest = fixture.put(&bytes(1)).await;
    let before = fixture.cache.blobs().stat(&operator(), &digest).await.unwrap();
    // The store's own copy of an object that was uploaded in parts has another version.
    fixture.store.rename_when_touched("touched");
    fixture.cache.blobs().touch_later(&operator(), before.clone()).unwrap();
    publish(&fixture, &[digest]).await;
    assert_eq!(versions(&stored(&fixture.store)), [None], "it is about to be another version");
    let shutdown = Shutdown::default();
    shutdown.spawn(fixture.cache.background().touch(shutdown.clone()));
    let touched = async {
        while !fixture.metrics.encode().contains("remora_touches_total 1") {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), touched).await.unwrap();
    shutdown.drain();
    assert!(shutdown.finish(Duration::from_secs(10)).await);
    publish(&fixture, &[digest]).await;
    assert_eq!(versions(&stored(&fixture.store)), [Some("touched".to_owned())]);
}
