//! The parts of an upload, in whatever order they come.

use std::sync::Arc;
use std::time::Duration;

use remora::cache::Error;
use remora::store::Directory;
use remora::types::Digest;

use super::{PART, begin};
use crate::cache::{content, for_large_blobs, roomy};
use crate::support::cache::{Setup, incoming};
use crate::support::memory_store::MemoryStore;

/// How many parts the memory holds.
const IN_MEMORY: usize = (64 << 20) / PART;
#[tokio::test]
async fn parts_in_any_order_and_repeated_reach_the_store_while_others_arrive() {
    let fixture = roomy().await;
    let bytes = content(PART * 4 + 77);
    let parts: Vec<&[u8]> = bytes.chunks(PART).collect();
    let mut sender = begin(&fixture, Digest::of(&bytes));
    for number in [3_u16, 1, 5, 1, 3, 2] {
        sender.send(number, parts[usize::from(number) - 1]).await;
    }
    fixture.store.wait_for_parts(4).await;
    assert!(fixture.store.keys().is_empty());
    sender.send(4, parts[3]).await;
    sender.complete().await.unwrap();
    assert!(fixture.has(&bytes));
    assert_eq!((fixture.store.open_uploads(), fixture.store.begun_uploads(), fixture.spool_files()), (0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_part_gives_its_memory_back_as_soon_as_those_before_it_have_come() {
    let fixture = roomy().await;
    // The parts are twice what the memory holds, and each pair comes in the wrong order.
    let bytes = content(PART * 28);
    let mut sender = begin(&fixture, Digest::of(&bytes));
    let begun = tokio::time::Instant::now();
    for (pair, first) in bytes.chunks(2 * PART).zip((1_u16..).step_by(2)) {
        sender.send(first + 1, &pair[PART..]).await;
        sender.send(first, &pair[..PART]).await;
    }
    sender.complete().await.unwrap();
    // The clock stands still while anything is done: this is what parts have waited for memory.
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(fixture.has(&bytes));
}

#[tokio::test(start_paused = true)]
async fn the_part_that_all_others_wait_for_does_not_wait_for_them() {
    let fixture = roomy().await;
    // The first part comes last, when the others have taken all memory.
    let bytes = content(PART * (1 + IN_MEMORY));
    let mut sender = begin(&fixture, Digest::of(&bytes));
    let begun = tokio::time::Instant::now();
    for (number, part) in (1..).zip(bytes.chunks(PART)).skip(1) {
        sender.send(number, part).await;
    }
    sender.send(1, &bytes[..PART]).await;
    sender.complete().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(fixture.has(&bytes));
}

#[tokio::test]
async fn a_part_may_be_sent_again_after_it_was_hashed() {
    let fixture = roomy().await;
    let bytes = content(PART * 3 + 5);
    let parts: Vec<&[u8]> = bytes.chunks(PART).collect();
    let mut sender = begin(&fixture, Digest::of(&bytes));
    for number in [1_u16, 2, 3, 2, 4, 1] {
        sender.send(number, parts[usize::from(number) - 1]).await;
    }
    sender.complete().await.unwrap();
    assert!(fixture.has(&bytes));

    // A part has other bytes at first: everything that was hashed after it must come again.
    let other = content(PART + 1).split_off(1);
    let mut sender = begin(&fixture, Digest::of(&bytes));
    for (number, part) in [(1_u16, parts[0]), (2, &other), (3, parts[2]), (4, parts[3]), (2, parts[1])] {
        sender.send(number, part).await;
    }
    let lost = sender.complete().await;
    assert!(matches!(&lost, Err(Error::Invalid(why)) if why.contains("part 3")), "{lost:?}");
    for number in [3_u16, 4] {
        sender.send(number, parts[usize::from(number) - 1]).await;
    }
    sender.complete().await.unwrap();
    assert!(fixture.has(&bytes));
    assert_eq!((fixture.store.open_uploads(), fixture.spool_files()), (0, 0));
}

#[tokio::test]
async fn numbers_may_have_gaps() {
    let fixture = roomy().await;
    let bytes = content(PART * 2 + 9);
    let mut sender = begin(&fixture, Digest::of(&bytes));
    for (number, part) in [7_u16, 1, 4].into_iter().zip([&bytes[PART * 2..], &bytes[..PART], &bytes[PART..PART * 2]]) {
        sender.send(number, part).await;
    }
    sender.complete().await.unwrap();
    assert!(fixture.has(&bytes));
}

#[tokio::test]
async fn bytes_with_another_digest_leave_nothing_in_the_store() {
    let fixture = roomy().await;
    let bytes = content(PART * 2);
    let mut sender = begin(&fixture, Digest::of(b"other"));
    sender.send(1, &bytes[..PART]).await;
    sender.send(2, &bytes[PART..]).await;
    fixture.store.wait_for_parts(2).await;
    assert_eq!(fixture.store.begun_uploads(), 1);
    let refused = sender.complete().await;
    assert!(matches!(&refused, Err(Error::Precondition(why)) if why.contains("have the digest")), "{refused:?}");
    assert!(fixture.store.keys().is_empty());
    assert_eq!((fixture.store.open_uploads(), fixture.spool_files()), (0, 0));
    assert!(matches!(sender.complete().await, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn an_abort_also_aborts_the_upload_in_the_store() {
    let fixture = roomy().await;
    let bytes = content(PART);
    let mut sender = begin(&fixture, Digest::of(&bytes));
    sender.send(1, &bytes).await;
    fixture.store.wait_for_parts(1).await;
    fixture.cache.uploads().abort(&fixture.grant, &sender.item, &sender.id).await.unwrap();
    assert_eq!((fixture.store.open_uploads(), fixture.spool_files()), (0, 0));
}

#[tokio::test]
async fn a_store_that_fails_is_named_and_the_part_may_be_sent_again() {
    let fixture = roomy().await;
    let bytes = content(PART * 3);
    let parts: Vec<&[u8]> = bytes.chunks(PART).collect();
    fixture.store.refuse_parts(&[2]);
    let mut sender = begin(&fixture, Digest::of(&bytes));
    for number in [1_u16, 2, 3] {
        sender.send(number, parts[usize::from(number) - 1]).await;
    }
    let failed = sender.complete().await;
    assert!(matches!(&failed, Err(Error::Unavailable(why)) if why.contains("part 2 is refused")), "{failed:?}");
    assert!(fixture.store.keys().is_empty());
    fixture.store.refuse_parts(&[]);
    sender.send(2, parts[1]).await;
    sender.complete().await.unwrap();
    assert!(fixture.has(&bytes));
    assert_eq!((fixture.store.open_uploads(), fixture.spool_files()), (0, 0));
}

#[tokio::test]
async fn more_than_the_memory_holds_goes_through_the_spool() {
    let fixture = roomy().await;
    let bytes = content(20 << 20);
    let mut sender = begin(&fixture, Digest::of(&bytes));
    sender.send(1, &bytes).await;
    sender.complete().await.unwrap();
    assert!(fixture.has(&bytes));

    let whole = content((20 << 20) + 1);
    fixture.cache.blobs().put(&fixture.grant, &Digest::of(&whole), whole.len() as u64, incoming(&whole)).await.unwrap();
    assert!(fixture.has(&whole));
    assert_eq!((fixture.store.open_uploads(), fixture.store.begun_uploads(), fixture.spool_files()), (0, 2, 0));
}

#[tokio::test]
async fn a_directory_takes_parts_like_any_store() {
    let dir = tempfile::tempdir().unwrap();
    let directory = Directory::new(&dir.path().join("store"), &"bucket".parse().unwrap());
    let fixture = Setup::through(Arc::new(directory), MemoryStore::default()).start(for_large_blobs).await;
    let bytes = content(PART * 3 + 1);
    let mut sender = begin(&fixture, Digest::of(&bytes));
    for (number, part) in (1_u16..).zip(bytes.chunks(PART)).collect::<Vec<_>>().into_iter().rev() {
        sender.send(number, part).await;
    }
    sender.complete().await.unwrap();
    let stored = dir.path().join("store/bucket/blobs").join(Digest::of(&bytes).to_string());
    assert!(std::fs::read(stored).unwrap() == bytes);
}
