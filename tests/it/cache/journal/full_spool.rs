//! A spool that is full: exports then wait for their store.

use super::*;

/// The size of the spool. The journal may have three quarters of it.
const SPOOL: usize = 16 * MIB;

fn machine() -> Machine {
    Machine { max_spool_bytes: SPOOL as u64, ..Machine::new() }
}

#[tokio::test]
async fn a_blob_that_finds_no_room_waits_for_the_store() {
    let machine = machine();
    let process = machine.start().await;
    let (first, second) = (content(9 * MIB, 1), content(4 * MIB, 2));
    process.put(&local(), &first).await.unwrap();
    let refused = process.put(&local(), &second).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    assert_eq!(process.status().entries, 1);

    machine.faults.fails_with(Fault::None);
    process.until_empty().await;
    machine.faults.fails_with(Fault::UnavailableWrites);
    process.put(&local(), &content(10 * MIB, 3)).await.unwrap();
    process.until(|status| status.last_error.is_some()).await;
    machine.faults.fails_with(Fault::None);
    process.put(&local(), &second).await.unwrap();
    assert!(machine.has(&second), "it is stored when the write is acknowledged");
}

#[tokio::test]
async fn a_manifest_waits_for_room_until_a_blob_is_finished() {
    let machine = machine();
    let process = machine.start().await;
    let blob = content(12 * MIB, 1);
    process.put(&local(), &blob).await.unwrap();
    let mut publish = Box::pin(async { process.publish(&local(), &[&blob]).await });
    tokio::select! {
        ended = &mut publish => panic!("{ended:?}"),
        () = process.until(|status| status.last_error.is_some()) => {}
    }
    machine.faults.fails_with(Fault::None);
    publish.await.unwrap();
    process.until_empty().await;
    assert_eq!(machine.published(), sorted(&[&blob]));
}

#[tokio::test]
async fn an_upload_that_outgrows_the_room_goes_to_the_store_from_its_first_part_on() {
    let machine = machine();
    let process = machine.start_unharmed().await;
    let cache = &process.cache;
    let grant = local();
    let blob = content(30 * MIB, 1);
    let item = Item::Blob(Digest::of(&blob));
    let id = cache.uploads().begin(&grant, item.clone()).unwrap();
    let mut sent = Vec::new();
    for (number, part) in (1_u16..).zip(blob.chunks(5 * MIB)) {
        let part = NewPart { number, size: part.len() as u64, body: incoming(part) };
        sent.push((number, cache.uploads().take_part(&grant, &item, &id, part).await.unwrap()));
        assert!(number > 3 || machine.store.begun_uploads() == 0, "there is room for part {number}");
    }
    cache.uploads().complete(&grant, &item, &id, &sent, Condition::None).await.unwrap();
    assert!(machine.has(&blob) && process.status().entries == 0);
    assert_eq!((machine.store.open_uploads(), machine.store.begun_uploads(), machine.spool_files()), (0, 1, 0));
}

#[tokio::test]
async fn a_large_blob_of_a_session_that_finds_no_room_is_streamed_to_the_store() {
    let machine = machine();
    let process = machine.start_unharmed().await;
    let grant = builder().durability(Durability::Local).documents(Arc::new(Documents::new(1 << 20))).build();
    let blob: Bytes = content(20 * MIB, 1).into();
    process.send(&grant, &blob).await;
    assert!(machine.has(&blob));
}
