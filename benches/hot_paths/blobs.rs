//! Blobs: what remora adds to a read whose store costs nothing, and what a lookup costs that asks no store.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use criterion::{Criterion, Throughput};
use futures_util::TryStreamExt as _;
use remora::cache::{Cache, Settings, layout};
use remora::metrics::Metrics;
use remora::shutdown::Shutdown;
use remora::store::{GuardedStore, Served, Stores};
use remora::transfer::Downloads;
use remora::types::{Digest, Grant, Hasher, Rights, Scope};
use tokio::runtime::Runtime;

use crate::one_blob::OneBlob;

const BLOB_BYTES: usize = 64 << 20;
const CHUNK_BYTES: usize = 1 << 20;
const MEMORY: u64 = 128 << 20;

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap()
}

fn scope() -> Scope {
    Scope::new("bucket".parse().unwrap(), "team/").unwrap()
}

/// A build's grant: its lookups are answered from memory.
fn grant() -> Grant {
    Grant::builder(scope(), Rights::IMPORT).names(&["app".parse().unwrap()]).build()
}

async fn cache(store: OneBlob, spool: &tempfile::TempDir) -> Cache {
    let served = Served { store: Arc::new(store), region: None, prefix: String::new() };
    let stores = Stores::Buckets { served: BTreeMap::from([("bucket".parse().unwrap(), served)]), default: "bucket".parse().unwrap() };
    let settings = Settings {
        spool_dir: spool.path().to_owned(),
        journal_dir: None,
        max_manifest_bytes: 1 << 20,
        max_open_ingests: 1,
        max_spool_bytes: 1 << 20,
        ingest_expiry: Duration::from_secs(3600),
        presence_max_age: Duration::from_secs(3600),
        lookup_interval: Duration::from_secs(60),
        merge: None,
        transfer_memory: MEMORY,
        upload_memory: 1 << 20,
        disk: None,
    };
    Cache::open(stores, settings, Metrics::default(), Shutdown::default()).await.unwrap()
}

pub(crate) fn reads(criterion: &mut Criterion) {
    let runtime = runtime();
    let spool = tempfile::tempdir().unwrap();
    let bytes = Bytes::from(vec![7; BLOB_BYTES]);
    let digest = Digest::of(&bytes);
    let mut group = criterion.benchmark_group("64 MiB");
    group.throughput(Throughput::Bytes(BLOB_BYTES as u64));
    group.bench_function("SHA-256 of pieces of 1 MiB", |bencher| {
        bencher.iter(|| {
            let mut hasher = Hasher::default();
            bytes.chunks(CHUNK_BYTES).for_each(|chunk| hasher.update(chunk));
            assert_eq!(hasher.finish().digest, digest);
        });
    });
    let grant = grant();
    // Either each read is of a version that is not known yet, or all are of one that the first read verified.
    let stores = [
        ("read and verified", OneBlob::new(bytes.clone(), CHUNK_BYTES).ever_new()),
        ("read again", OneBlob::new(bytes.clone(), CHUNK_BYTES)),
    ];
    for (name, store) in stores {
        let cache = runtime.block_on(cache(store, &spool));
        group.bench_function(name, |bencher| {
            bencher.to_async(&runtime).iter(|| async {
                let blob = cache.blobs().read(&grant, &digest, None).await.unwrap();
                let read = blob.body.try_fold(0, |read, chunk| async move { Ok(read + chunk.len()) }).await.unwrap();
                assert_eq!(read, BLOB_BYTES);
            });
        });
    }
    for (name, chunk) in [("through the window, pieces of 1 MiB", CHUNK_BYTES), ("through the window, pieces of 64 KiB", 64 << 10)] {
        let store: Arc<dyn GuardedStore> = Arc::new(OneBlob::new(bytes.clone(), chunk).in_ranges());
        let downloads = Downloads::new(MEMORY, Metrics::default());
        let key = layout::blob_key(&scope(), &digest);
        group.bench_function(name, |bencher| {
            bencher.to_async(&runtime).iter(|| async {
                let object = downloads.get(&store, &key, None).await.unwrap();
                let read = object.body.try_fold(0, |read, chunk| async move { Ok(read + chunk.len()) }).await.unwrap();
                assert_eq!(read, BLOB_BYTES);
            });
        });
    }
    group.finish();
}

pub(crate) fn lookups(criterion: &mut Criterion) {
    let runtime = runtime();
    let spool = tempfile::tempdir().unwrap();
    let scope = scope();
    let grant = grant();
    let bytes = Bytes::from_static(b"layer");
    let digest = Digest::of(&bytes);
    let text = digest.to_string();
    let key = layout::blob_key(&scope, &digest);
    let mut group = criterion.benchmark_group("lookup");
    group.bench_function("digest from its text", |bencher| bencher.iter(|| black_box(&text).parse::<Digest>().unwrap()));
    group.bench_function("blob from its key", |bencher| bencher.iter(|| layout::locate(&scope, black_box(key.as_str())).unwrap()));
    let cache = runtime.block_on(cache(OneBlob::new(bytes, CHUNK_BYTES), &spool));
    group.bench_function("blob that was seen", |bencher| {
        bencher.to_async(&runtime).iter(|| async { cache.blobs().stat(&grant, &digest).await.unwrap() });
    });
    group.finish();
}
