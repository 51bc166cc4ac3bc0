//! Builds' sessions while the store or the spool fails: which exports are dropped, which layers are waited for, and
//! what ingests may take of the spool.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use remora::cache::outage::is_dropped;
use remora::cache::{Cache, Error, Settings};
use remora::types::{Digest, Documents, Grant, Rights};
use time::OffsetDateTime;
use tokio::time::Instant;

use crate::support::cache::{Setup, blob_key, build, collect, operator};
use crate::support::disk::Tmpfs;
use crate::support::fault_store::{Fault, FaultStore};
use crate::support::memory_store::MemoryStore;

const MIB: usize = 1 << 20;
/// The most that the spool may hold.
const SPOOL: usize = 4 * MIB;

/// A cache over a bucket with faults, and its spool.
struct Outage {
    cache: Cache,
    store: MemoryStore,
    faults: FaultStore,
}

impl Outage {
    async fn new(spool: &Path) -> Self {
        let store = MemoryStore::default();
        let faults = FaultStore::new(store.clone());
        let cache = open(spool, &faults, SPOOL).await;
        Self { cache, store, faults }
    }
}

async fn open(spool: &Path, faults: &FaultStore, max_spool_bytes: usize) -> Cache {
    let setup = Setup::through(Arc::new(faults.clone()), MemoryStore::default());
    let adjust = |settings: &mut Settings| {
        settings.spool_dir = spool.to_owned();
        settings.max_spool_bytes = max_spool_bytes as u64;
    };
    setup.start(adjust).await.cache
}

/// The grant of a build's export through its session.
fn export(may_miss: bool) -> Grant {
    let grant = build(Rights::EXPORT).documents(Arc::new(Documents::new(1 << 20)));
    if may_miss { grant.losses(Arc::default()).build() } else { grant.build() }
}

fn layer(mib: usize, seed: u8) -> Bytes {
    (0..mib * MIB).map(|at| seed.wrapping_add((at % 251) as u8)).collect::<Vec<_>>().into()
}

/// Writes a blob as containerd's client does: announced, in chunks, committed.
async fn write(cache: &Cache, grant: &Grant, blob: &Bytes) -> Result<(), Error> {
    let digest = Digest::of(blob);
    let mut ingest = cache.ingests().open_writer(grant, &digest.to_string(), blob.len() as u64, Some(digest)).await?;
    for start in (0..blob.len()).step_by(MIB) {
        ingest.write(start as u64, blob.slice(start..blob.len().min(start + MIB))).await?;
        assert_eq!(ingest.status()?.offset as usize, blob.len().min(start + MIB));
    }
    ingest.commit(Some(blob.len() as u64), Some(digest), BTreeMap::new()).await.map(drop)
}

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

/// The export is dropped, and nothing of it is asked for, taken or kept.
async fn assert_dropped(fixture: &Outage, grant: &Grant, spool: &Path) {
    assert!(is_dropped(grant));
    let next = fixture.cache.ingests().open_writer(grant, "next", 0, None).await;
    assert!(matches!(next, Err(Error::AlreadyExists(_))), "{next:?}");
    assert_eq!((fixture.store.keys(), fixture.store.open_uploads(), files(spool)), (Vec::new(), 0, 0));
}

#[tokio::test]
async fn an_export_that_is_larger_than_the_spool_may_be_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Outage::new(dir.path()).await;
    let grant = export(true);
    let written = write(&fixture.cache, &grant, &layer(9, 1)).await;
    assert!(matches!(written, Err(Error::AlreadyExists(_))), "{written:?}");
    assert_dropped(&fixture, &grant, dir.path()).await;
    // The next build has room again.
    write(&fixture.cache, &export(true), &layer(4, 2)).await.unwrap();
    assert_eq!(fixture.store.keys(), [blob_key(&Digest::of(&layer(4, 2)))]);
}

#[tokio::test]
async fn an_export_to_a_full_disk_is_dropped() {
    let disk = Tmpfs::mount("2m");
    let fixture = Outage::new(disk.path()).await;
    let grant = export(true);
    let written = write(&fixture.cache, &grant, &layer(4, 1)).await;
    assert!(matches!(written, Err(Error::AlreadyExists(_))), "{written:?}");
    assert_dropped(&fixture, &grant, disk.path()).await;
    std::fs::write(disk.path().join("another's"), layer(1, 0)).unwrap();
    let failed = write(&fixture.cache, &export(false), &layer(4, 1)).await;
    assert!(matches!(&failed, Err(Error::Exhausted(why)) if why.contains("spool")), "{failed:?}");
}

#[tokio::test]
async fn one_ingest_too_many_drops_an_export() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Outage::new(dir.path()).await;
    let operator = operator();
    let mut open = Vec::new();
    for number in 0..4 {
        open.push(fixture.cache.ingests().open_writer(&operator, &format!("ref {number}"), 0, None).await.unwrap());
    }
    let refused = write(&fixture.cache, &export(false), &layer(1, 1)).await;
    assert!(matches!(&refused, Err(Error::Exhausted(why)) if why.contains("limits.max_open_ingests")), "{refused:?}");
    let grant = export(true);
    let dropped = write(&fixture.cache, &grant, &layer(1, 1)).await;
    assert!(matches!(dropped, Err(Error::AlreadyExists(_))) && is_dropped(&grant), "{dropped:?}");
}

#[tokio::test]
async fn a_store_that_takes_nothing_drops_an_export_or_fails_it() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Outage::new(dir.path()).await;
    for (fault, may_miss) in [Fault::Unavailable, Fault::UnavailableWrites].into_iter().flat_map(|fault| [(fault, true), (fault, false)]) {
        fixture.faults.fails_with(fault);
        let grant = export(may_miss);
        let written = write(&fixture.cache, &grant, &layer(1, 1)).await;
        match written {
            Ok(()) | Err(Error::AlreadyExists(_)) => assert!(may_miss),
            Err(error) => assert!(!may_miss && matches!(error, Error::Unavailable(_)), "{error}"),
        }
        fixture.faults.fails_with(Fault::None);
        if may_miss {
            assert_dropped(&fixture, &grant, dir.path()).await;
        }
        assert_eq!(fixture.store.keys(), Vec::<String>::new());
    }
}

#[tokio::test]
async fn bytes_of_ingests_in_the_spool_count_until_they_are_gone() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Outage::new(dir.path()).await;
    let operator = operator();
    let mut left = fixture.cache.ingests().open_writer(&operator, "left", 0, None).await.unwrap();
    left.write(0, layer(3, 1)).await.unwrap();
    drop(left);
    let refused = write(&fixture.cache, &operator, &layer(2, 2)).await;
    assert!(matches!(&refused, Err(Error::Exhausted(why)) if why.contains("limits.max_spool_bytes")), "{refused:?}");
    // The bytes that fitted are still there, and the ingest goes on when there is more room.
    let reference = Digest::of(&layer(2, 2)).to_string();
    assert_eq!(fixture.cache.ingests().status(&operator, &reference).unwrap().offset as usize, MIB);
    fixture.cache.ingests().abort(&operator, "left").await.unwrap();
    let mut more = fixture.cache.ingests().open_writer(&operator, &reference, 0, None).await.unwrap();
    more.write(MIB as u64, layer(3, 3)).await.unwrap();
    more.restart().await.unwrap();
    more.write(0, layer(1, 3)).await.unwrap();
    drop(more);

    // A restart remembers what the spool holds, and drops what is over the new bound.
    drop(fixture.cache);
    let cache = open(dir.path(), &fixture.faults, SPOOL).await;
    assert!(matches!(write(&cache, &operator, &layer(4, 4)).await, Err(Error::Exhausted(_))));
    cache.ingests().abort(&operator, &Digest::of(&layer(4, 4)).to_string()).await.unwrap();
    write(&cache, &operator, &layer(3, 4)).await.unwrap();
    drop(cache);
    let cache = open(dir.path(), &fixture.faults, MIB / 2).await;
    assert_eq!((cache.ingests().statuses(&operator).unwrap(), files(dir.path())), (Vec::new(), 0));
}

#[tokio::test(start_paused = true)]
async fn a_promised_layer_is_asked_for_again_and_again_for_a_minute() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = Outage::new(dir.path()).await;
    let blob = layer(1, 1);
    let digest = Digest::of(&blob);
    fixture.store.plant(&blob_key(&digest), blob.clone(), OffsetDateTime::now_utc());
    fixture.faults.fails_with(Fault::Unavailable);
    let import = || build(Rights::IMPORT);
    let read = async |grant: &Grant| {
        let begun = Instant::now();
        let read = fixture.cache.blobs().read_promised(grant, &digest, None).await;
        (read, begun.elapsed())
    };
    let (failed, took) = read(&import().build()).await;
    assert!(matches!(failed.map(drop), Err(Error::Unavailable(_))) && took < Duration::from_secs(1), "{took:?}");

    let tolerant = import().losses(Arc::default()).build();
    let (failed, took) = read(&tolerant).await;
    assert!(matches!(failed.map(drop), Err(Error::Unavailable(_))) && took == Duration::from_secs(60), "{took:?}");
    // The build has failed by now, so nothing is waited for any more.
    let (failed, took) = read(&tolerant).await;
    assert!(failed.is_err() && took < Duration::from_secs(1), "{took:?}");

    let back = async {
        tokio::time::sleep(Duration::from_secs(30)).await;
        fixture.faults.fails_with(Fault::None);
    };
    let grant = import().losses(Arc::default()).build();
    let ((found, took), ()) = tokio::join!(read(&grant), back);
    assert!(collect(found.unwrap()).await.unwrap() == blob && took < Duration::from_secs(35), "{took:?}");
}
