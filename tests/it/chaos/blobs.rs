//! Blobs read while the store fails: whole and right, or not at all.

use std::time::Duration;

use aws_sdk_s3::primitives::ByteStream;
use futures_util::{StreamExt as _, stream};
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use remora::types::Digest;

use super::client::{Store, Through, key, start};
use crate::support::faults::{Fault, FaultProxy, Rule, seed};
use crate::support::minio::Minio;

const READS: usize = 500;
const AT_ONCE: usize = 16;
/// Of all requests to the store.
const RATE: f64 = 0.3;
const SMALL: usize = 40;
/// MiB; every so many reads one of these is read.
const LARGE: [usize; 3] = [20, 30, 40];
const LARGE_EVERY: usize = 25;
/// Far longer than any fault lasts.
const HANGS: Duration = Duration::from_secs(150);
const FAULTS: [Fault; 5] = [Fault::SlowDown, Fault::Reset, Fault::Stall(Duration::from_secs(2)), Fault::Truncate, Fault::WrongETag];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blobs_are_read_byte_for_byte_or_not_at_all() {
    read_through(&FAULTS).await;
}

/// What no checksum of HTTP tells: one byte is another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "waits for reads that are verified on their way"]
async fn a_flipped_byte_is_never_read() {
    read_through(&[Fault::Flip, Fault::Truncate]).await;
}

async fn read_through(faults: &[Fault]) {
    let seed = seed();
    let minio = Minio::shared().await;
    let bucket = minio.new_bucket().await.to_string();
    let blobs = plant(minio, &bucket, seed).await;
    let proxy = FaultProxy::start(minio.endpoint(), seed);
    let (_sidecar, clients) = start(&Store::Minio { minio, url: proxy.url(), bucket: &bucket });
    proxy.set_rules(Rule::mix(RATE, faults));
    let read = async |index: usize| {
        let through = if index.is_multiple_of(2) { Through::S3 } else { Through::Content };
        let blob = match index % LARGE_EVERY {
            0 => &blobs[SMALL + index / LARGE_EVERY % LARGE.len()],
            _ => &blobs[index % SMALL],
        };
        let digest = Digest::of(blob);
        let read = tokio::time::timeout(HANGS, clients.read(through, &digest)).await.expect("a read hangs");
        let right = read.map(|bytes| assert!(bytes == *blob, "read {index}, {through:?}: wrong bytes for {digest}"));
        right.is_ok()
    };
    let whole: Vec<bool> = stream::iter(0..READS).map(read).buffer_unordered(AT_ONCE).collect().await;
    let whole = whole.into_iter().filter(|whole| *whole).count();
    let counts = proxy.counts();
    assert!(proxy.harmed() > READS as u64 / 10, "hardly anything was harmed: {counts:?}");
    assert!(whole > READS / 2, "only {whole} of {READS} were read: {counts:?}");
}

/// Puts blobs into the bucket, past everything under test: the small ones, then the large ones.
async fn plant(minio: &Minio, bucket: &str, seed: u64) -> Vec<Vec<u8>> {
    let mut dice = StdRng::seed_from_u64(seed);
    let small: Vec<usize> = (0..SMALL).map(|_| dice.random_range(1..300_000)).collect();
    let mut blobs = Vec::new();
    for size in small.into_iter().chain(LARGE.map(|size| size << 20)) {
        let mut blob = vec![0; size];
        dice.fill(&mut blob);
        let put = minio.client().put_object().bucket(bucket).key(key(&Digest::of(&blob)));
        put.body(ByteStream::from(blob.clone())).send().await.unwrap();
        blobs.push(blob);
    }
    blobs
}
