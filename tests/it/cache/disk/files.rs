//! The disk itself: restarts, bytes that are not what was written, bounds, and a disk that takes no more.

use std::io::Write as _;

use futures_util::TryStreamExt as _;

use super::{MIB, Rig, blob};
use crate::support::cache::{blob_key, collect};
use crate::support::disk::Tmpfs;
use crate::support::memory_store::MemoryStore;

#[tokio::test]
async fn a_restart_keeps_what_is_whole_and_clears_what_is_not() {
    let rig = Rig::new().await;
    let blobs = [blob(0, MIB), blob(1, 2 * MIB + 1), blob(2, 10)];
    let digests = blobs.clone().map(|blob| rig.plant(&blob));
    for digest in &digests {
        rig.read(digest).await.unwrap();
    }
    rig.eventually("all are kept", |rig| rig.metric("disk_cache_fills_total") == 3).await;
    let bytes = rig.metric("disk_cache_bytes");
    std::fs::write(rig.dir.join("drafts/left"), b"by a kill").unwrap();
    std::fs::write(rig.dir.join("stray"), b"no blob").unwrap();
    // This is what a kill leaves that comes after the new file is written and before the old one is deleted.
    let file = rig.file(&digests[0]).unwrap();
    std::fs::write(file.with_extension("0123456789abcdef"), std::fs::read(&file).unwrap()).unwrap();

    let rig = rig.restart().await;
    assert_eq!((rig.drafts(), rig.metric("disk_cache_bytes")), (0, bytes));
    rig.gets();
    for (digest, blob) in digests.iter().zip(&blobs) {
        assert!(rig.read(digest).await.unwrap() == *blob);
    }
    assert_eq!((rig.gets(), rig.metric("disk_cache_hits_total")), (0, 3));
}

type Damage = fn(Vec<u8>) -> Vec<u8>;

/// A power loss leaves files like these where they were never flushed, and a disk damages files over time. Every
/// block carries its checksum, so the first wrong one sends the reader to the bucket, before a byte of it is out.
#[tokio::test]
async fn bytes_that_are_not_what_was_written_are_read_from_the_bucket() {
    let damages: [(&str, Damage); 5] = [
        ("a flipped byte in the middle", |mut file| {
            file[2 * MIB + 9] ^= 1;
            file
        }),
        ("a flipped byte in the footer", |mut file| {
            *file.last_mut().unwrap() ^= 1;
            file
        }),
        ("cut short", |file| file[..MIB].to_vec()),
        ("empty", |_| Vec::new()),
        ("zeros", |file| vec![0; file.len()]),
    ];
    let mut rig = Rig::new().await;
    let good = blob(3, 4 * MIB);
    let digest = rig.plant(&good);
    for (damage, spoil) in damages {
        rig.read(&digest).await.unwrap();
        rig.eventually("it is kept", |rig| rig.kept(&[digest]) == [true]).await;
        rig = rig.restart().await;
        let file = std::fs::read(rig.file(&digest).unwrap()).unwrap();
        std::fs::write(rig.file(&digest).unwrap(), spoil(file)).unwrap();
        rig.gets();
        assert!(rig.read(&digest).await.unwrap() == good, "{damage}");
        assert!(rig.gets() > 0 && rig.metric("disk_cache_faults_total") == 1, "{damage} was not noticed");
        let part = rig.read_range(&digest, 2 * MIB, 2 * MIB + 20).await.unwrap();
        assert!(part == good[2 * MIB..2 * MIB + 20], "{damage}");
    }
}

#[tokio::test]
async fn a_range_that_is_not_what_was_written_is_read_from_the_bucket() {
    let rig = Rig::new().await;
    let good = blob(4, 4 * MIB);
    let digest = rig.plant(&good);
    rig.read(&digest).await.unwrap();
    rig.eventually("it is kept", |rig| rig.kept(&[digest]) == [true]).await;
    let rig = rig.restart().await;
    let mut file = std::fs::read(rig.file(&digest).unwrap()).unwrap();
    file[2 * MIB + 100] ^= 1;
    std::fs::write(rig.file(&digest).unwrap(), file).unwrap();
    assert!(rig.read_range(&digest, MIB + 5, 3 * MIB).await.unwrap() == good[MIB + 5..3 * MIB]);
    assert_eq!((rig.metric("disk_cache_faults_total"), rig.kept(&[digest])), (1, vec![false]));
}

#[tokio::test]
async fn the_least_recently_read_blob_is_evicted_and_never_one_that_is_being_read() {
    let rig = Rig::with(|disk| disk.max_size = 10 * MIB as u64).await;
    let blobs = [0, 1, 2, 3, 4].map(|seed| blob(10 + seed, 3 * MIB));
    let digests = blobs.clone().map(|blob| rig.plant(&blob));
    let kept = async |index: usize, fills: u64| {
        rig.read(&digests[index]).await.unwrap();
        rig.eventually("it is kept", |rig| rig.metric("disk_cache_fills_total") == fills).await;
    };
    for (fills, index) in (1..).zip([0, 1, 2]) {
        kept(index, fills).await;
    }
    rig.read(&digests[0]).await.unwrap();
    let mut slow = rig.open(&rig.grant, &digests[1], None).await.unwrap();
    let first = slow.body.try_next().await.unwrap().unwrap();
    rig.read(&digests[2]).await.unwrap();
    rig.read(&digests[0]).await.unwrap();
    // By now the second was read the longest ago, and is still being read.
    kept(3, 4).await;
    assert_eq!(rig.kept(&digests), [true, true, false, true, false]);
    kept(4, 5).await;
    assert_eq!(rig.kept(&digests), [false, true, false, true, true]);
    assert!(rig.metric("disk_cache_bytes") <= 10 * MIB as u64);
    assert_eq!(rig.metric("disk_cache_evictions_total"), 2);
    rig.gets();
    assert!([first, collect(slow).await.unwrap()].concat() == *blobs[1]);
    assert_eq!(rig.gets(), 0);

    let large = rig.plant(&blob(20, 11 * MIB));
    assert_eq!(rig.read(&large).await.unwrap().len(), 11 * MIB);
    rig.end().await;
    assert_eq!(rig.kept(&[large, digests[4]]), [false, true], "what is too large makes nobody go");
}

#[tokio::test]
async fn the_space_that_must_stay_free_on_the_disk_stays_free() {
    let rig = Rig::new().await;
    let blobs = [blob(30, MIB), blob(31, MIB)];
    let digests = blobs.clone().map(|blob| rig.plant(&blob));
    rig.read(&digests[0]).await.unwrap();
    rig.eventually("it is kept", |rig| rig.kept(&digests) == [true, false]).await;
    rig.end().await;
    let dir = rig.dir.clone();
    let store = rig.store.clone();
    let Rig { fixture, folder, .. } = rig;
    drop(fixture);
    // No disk has this much free.
    let rig = Rig::over(store, &dir, |disk| disk.min_free = 1 << 60).await;
    assert_eq!((rig.kept(&digests), rig.metric("disk_cache_evictions_total")), (vec![false, false], 1), "also at the start");
    for (digest, blob) in digests.iter().zip(&blobs) {
        assert!(rig.read(digest).await.unwrap() == *blob);
    }
    rig.end().await;
    assert_eq!((rig.kept(&digests), rig.drafts()), (vec![false, false], 0));
    drop(folder);
}

/// Remounts the disk, which is busy until the last file on it is closed.
async fn make_read_only(disk: &Tmpfs) {
    let mut tries = 50;
    while !disk.try_make_read_only() {
        assert!(tries > 0, "the disk stays busy");
        tries -= 1;
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    }
}

#[tokio::test]
async fn a_disk_that_runs_full_in_the_middle_is_bypassed() {
    let small = Tmpfs::mount("16m");
    let rig = Rig::over(MemoryStore::default(), small.path(), |_| ()).await;
    let good = blob(40, 8 * MIB);
    let digest = rig.plant(&good);
    rig.store.limit(&blob_key(&digest), 3 * MIB);
    let reads = [rig.open(&rig.grant, &digest, None).await.unwrap(), rig.open(&rig.grant, &digest, None).await.unwrap()];
    // This takes all that is left of the disk.
    let mut ballast = std::fs::File::create(small.path().join("ballast")).unwrap();
    while ballast.write_all(&vec![1; MIB / 4]).is_ok() {}
    rig.store.limit(&blob_key(&digest), usize::MAX);
    for read in reads {
        assert!(collect(read).await.unwrap() == good);
    }
    assert_eq!((rig.metric("disk_cache_faults_total"), rig.drafts()), (1, 0));
    // The disk is left alone for a while, and every read goes to the bucket.
    let other = rig.plant(&blob(41, MIB));
    rig.read(&other).await.unwrap();
    assert_eq!((rig.metric("disk_cache_faults_total"), rig.metric("disk_cache_fills_total")), (1, 0));
    rig.end().await;
}

#[tokio::test]
async fn blobs_are_evicted_when_others_fill_the_disk() {
    let small = Tmpfs::mount("16m");
    let rig = Rig::over(MemoryStore::default(), small.path(), |disk| disk.min_free = 4 * MIB as u64).await;
    let digests = [45, 46].map(|seed| rig.plant(&blob(seed, 3 * MIB)));
    for digest in &digests {
        rig.read(digest).await.unwrap();
        rig.eventually("it is kept", |rig| rig.kept(&[*digest]) == [true]).await;
    }
    std::fs::write(small.path().join("ballast"), vec![1; 8 * MIB]).unwrap();
    assert_eq!(rig.kept(&digests), [true, true]);
    tokio::time::pause();
    tokio::time::advance(std::time::Duration::from_secs(61)).await;
    tokio::time::resume();
    rig.eventually("one has gone", |rig| rig.kept(&digests) == [false, true]).await;
    rig.end().await;
}

#[tokio::test]
async fn a_disk_that_has_become_read_only_is_bypassed() {
    let small = Tmpfs::mount("16m");
    let rig = Rig::over(MemoryStore::default(), small.path(), |_| ()).await;
    let blobs = [blob(42, MIB), blob(43, MIB)];
    let digests = blobs.clone().map(|blob| rig.plant(&blob));
    rig.read(&digests[0]).await.unwrap();
    rig.eventually("it is kept", |rig| rig.kept(&digests) == [true, false]).await;
    make_read_only(&small).await;
    rig.gets();
    for (digest, blob) in digests.iter().zip(&blobs) {
        assert!(rig.read(digest).await.unwrap() == *blob);
    }
    assert!(rig.metric("disk_cache_faults_total") == 1 && rig.metric("disk_cache_hits_total") == 1);
    rig.end().await;
}

#[tokio::test]
async fn without_a_folder_to_use_there_is_no_disk_cache() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("file"), b"").unwrap();
    let first = Rig::over(MemoryStore::default(), &folder.path().join("cache"), |_| ()).await;
    for dir in ["file", "cache"] {
        let rig = Rig::over(MemoryStore::default(), &folder.path().join(dir), |_| ()).await;
        let good = blob(44, MIB);
        let digest = rig.plant(&good);
        assert!(rig.read(&digest).await.unwrap() == good);
        assert_eq!((rig.metric("disk_cache_faults_total"), rig.metric("disk_cache_misses_total")), (1, 0), "{dir}");
        rig.end().await;
    }
    first.end().await;
}
