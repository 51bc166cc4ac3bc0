//! Blobs read while the store fails: whole and right, or not at all.

use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use futures_util::{StreamExt as _, stream};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use remora::types::Digest;

use super::client::{Clients, End, Store, Through, key, start};
use crate::support::faults::{Fault, FaultProxy, Rule, seed};
use crate::support::minio::Minio;
use crate::support::sidecar::Sidecar;

const READS: usize = 500;
const AT_ONCE: usize = 16;
/// The share of requests to the store that are harmed.
const RATE: f64 = 0.3;
const SMALL: usize = 40;
/// MiB; every so many reads one of these is read.
const LARGE: [usize; 3] = [20, 30, 40];
const LARGE_EVERY: usize = 25;
/// Large enough for two ranges.
const TWO_RANGES: usize = 9;
/// Far longer than any fault lasts.
const HANGS: Duration = Duration::from_secs(150);
const FAULTS: [Fault; 5] = [Fault::SlowDown, Fault::Reset, Fault::Stall(Duration::from_secs(2)), Fault::Truncate, Fault::WrongETag];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_are_read_byte_for_byte_or_not_at_all() {
    let sizes = [[None; SMALL].as_slice(), &LARGE.map(Some)].concat();
    let chosen = |index: usize| match index % LARGE_EVERY {
        0 => SMALL + index / LARGE_EVERY % LARGE.len(),
        _ => index % SMALL,
    };
    read_through(&FAULTS, &sizes, chosen).await;
}

/// A changed byte, which no checksum of HTTP reveals. Each read is the first of its blob: what remora has
/// verified once, it takes to be the same while the store says so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flipped_byte_is_never_read() {
    let size = |index: usize| index.is_multiple_of(LARGE_EVERY).then_some(TWO_RANGES);
    let sizes: Vec<_> = (0..READS).map(size).collect();
    let (remora, blobs, failed) = read_through(&[Fault::Flip, Fault::Truncate], &sizes, |index| index).await;
    let mut missing = 0;
    for blob in failed.into_iter().map(|index| &blobs[index]) {
        let digest = Digest::of(blob);
        let clients = &remora.clients;
        match clients.read(Through::Content, &digest).await {
            // The process had only ended early.
            Ok(bytes) => assert!(bytes == *blob, "wrong bytes for {digest}"),
            Err(end) => {
                assert_eq!(end, End::Missing, "{digest}");
                missing += 1;
                assert_eq!(clients.write(Through::S3, &digest, blob).await, End::Done, "{digest}");
                assert!(clients.read(Through::S3, &digest).await.is_ok_and(|bytes| bytes == *blob), "{digest} is good again");
            }
        }
    }
    assert!(missing > 0, "nothing was found to be corrupt");
}

/// A remora whose store has stopped failing.
struct Mended {
    clients: Clients,
    _sidecar: Sidecar,
    _proxy: FaultProxy,
}

/// Reads blobs of these sizes (MiB; `None`: small), always the one of `chosen`, while the store fails.
/// Returns those reads that failed.
async fn read_through(faults: &[Fault], sizes: &[Option<usize>], chosen: impl Fn(usize) -> usize) -> (Mended, Vec<Vec<u8>>, Vec<usize>) {
    let seed = seed();
    let minio = Minio::shared();
    let bucket = minio.new_bucket();
    let blobs = plant(minio, &bucket, sizes, seed).await;
    let proxy = FaultProxy::start(minio.endpoint(), seed);
    let (sidecar, clients) = start(&Store::Minio { url: proxy.url(), bucket: &bucket, disk_cache: false });
    proxy.set_rules(Rule::mix(RATE, faults));
    let read = async |index: usize| {
        let through = if index.is_multiple_of(2) { Through::S3 } else { Through::Content };
        let blob = &blobs[chosen(index)];
        let digest = Digest::of(blob);
        let read = tokio::time::timeout(HANGS, clients.read(through, &digest)).await.expect("a read hangs");
        let right = read.map(|bytes| assert!(bytes == *blob, "read {index}, {through:?}: wrong bytes for {digest}"));
        right.is_err().then_some(index)
    };
    let failed: Vec<Option<usize>> = stream::iter(0..READS).map(read).buffer_unordered(AT_ONCE).collect().await;
    let failed: Vec<usize> = failed.into_iter().flatten().collect();
    let counts = proxy.counts();
    assert!(proxy.harmed() > READS as u64 / 10, "hardly anything was harmed: {counts:?}");
    assert!(failed.len() < READS / 2, "{} of {READS} were not read: {counts:?}", failed.len());
    proxy.set_rules(Vec::new());
    (Mended { clients, _sidecar: sidecar, _proxy: proxy }, blobs, failed)
}

/// Puts blobs into the bucket, past everything under test.
pub(super) async fn plant(minio: &Minio, bucket: &str, sizes: &[Option<usize>], seed: u64) -> Vec<Vec<u8>> {
    let mut dice = StdRng::seed_from_u64(seed);
    let mut blobs = Vec::new();
    for size in sizes {
        let mut blob = vec![0; size.map_or_else(|| dice.random_range(1..300_000), |size| size << 20)];
        dice.fill(&mut blob);
        let put = minio.client().put_object().bucket(bucket).key(key(&Digest::of(&blob)));
        put.body(ByteStream::from(blob.clone())).send().await.unwrap();
        blobs.push(blob);
    }
    blobs
}
