//! A spool that is full: exports then wait for their store.

use super::*;

/// Three quarters of it are for the journal.
const SPOOL: usize = 16 * MIB;

fn fixture() -> Fixture {
    Fixture { max_spool_bytes: SPOOL as u64, ..Fixture::new() }
}

#[tokio::test]
async fn a_blob_that_finds_no_room_waits_for_the_store() {
    let fixture = fixture();
    let process = fixture.start().await;
    let (first, second) = (content(9 * MIB, 1), content(4 * MIB, 2));
    process.put(&local(), &first).await.unwrap();
    let refused = process.put(&local(), &second).await;
    assert!(matches!(refused, Err(Error::Unavailable(_))), "{refused:?}");
    assert_eq!(process.status().entries, 1);

    fixture.faults.fails_with(Fault::None);
    process.until_empty().await;
    fixture.faults.fails_with(Fault::UnavailableWrites);
    process.put(&local(), &content(10 * MIB, 3)).await.unwrap();
    process.until(|status| status.last_error.is_some()).await;
    fixture.faults.fails_with(Fault::None);
    process.put(&local(), &second).await.unwrap();
    assert!(fixture.has(&second), "it is stored when the write is acknowledged");
}

#[tokio::test]
async fn a_manifest_waits_for_room_until_a_blob_is_finished() {
    let fixture = fixture();
    let process = fixture.start().await;
    let blob = content(12 * MIB, 1);
    process.put(&local(), &blob).await.unwrap();
    let mut publish = Box::pin(async { process.publish(&local(), &[&blob]).await });
    tokio::select! {
        ended = &mut publish => panic!("{ended:?}"),
        () = process.until(|status| status.last_error.is_some()) => {}
    }
    fixture.faults.fails_with(Fault::None);
    publish.await.unwrap();
    process.until_empty().await;
    assert_eq!(fixture.published(), sorted(&[&blob]));
}

#[tokio::test]
async fn an_upload_that_outgrows_the_room_goes_to_the_store_from_its_first_part_on() {
    let fixture = fixture();
    let process = fixture.start_over(Arc::new(fixture.store.clone())).await;
    let (cache, grant, blob) = (&process.cache, local(), content(30 * MIB, 1));
    let item = Item::Blob(Digest::of(&blob));
    let id = cache.begin_upload(&grant, item.clone()).unwrap();
    let mut sent = Vec::new();
    for (number, part) in (1_u16..).zip(blob.chunks(5 * MIB)) {
        let part = NewPart { number, size: part.len() as u64, body: incoming(part) };
        sent.push((number, cache.upload_part(&grant, &item, &id, part).await.unwrap()));
        assert!(number > 3 || fixture.store.begun_uploads() == 0, "there is room for part {number}");
    }
    cache.complete_upload(&grant, &item, &id, &sent, Condition::None).await.unwrap();
    assert!(fixture.has(&blob) && process.status().entries == 0);
    assert_eq!((fixture.store.open_uploads(), fixture.store.begun_uploads(), fixture.spool_files()), (0, 1, 0));
}

#[tokio::test]
async fn a_large_blob_of_a_session_that_finds_no_room_is_streamed_to_the_store() {
    let fixture = fixture();
    let process = fixture.start_over(Arc::new(fixture.store.clone())).await;
    let grant = builder().durability(Durability::Local).documents(Arc::new(Documents::new(1 << 20))).build();
    let blob: Bytes = content(20 * MIB, 1).into();
    let digest = Digest::of(&blob);
    let mut ingest = process.cache.open_ingest(&grant, "layer", blob.len() as u64, Some(digest)).await.unwrap();
    for start in (0..blob.len()).step_by(MIB) {
        ingest.write(start as u64, blob.slice(start..start + MIB)).await.unwrap();
    }
    ingest.commit(Some(blob.len() as u64), Some(digest), BTreeMap::new()).await.unwrap();
    assert!(fixture.has(&blob));
}
