//! Exports that end before their store has them.

use time::OffsetDateTime;

use super::*;

#[tokio::test]
async fn an_export_ends_without_its_store_and_gets_there_when_it_is_back() {
    let machine = Machine::new();
    let process = machine.start().await;
    let (one, two) = (content(3000, 1), content(5 * MIB, 2));
    for blob in [&one, &two] {
        let asked = process.cache.blobs().find_to_reuse(&local(), &Digest::of(blob)).await;
        assert!(matches!(asked, Err(Error::NotFound(_))), "{asked:?}");
        process.put(&local(), blob).await.unwrap();
    }
    process.publish(&local(), &[&one, &two]).await.unwrap();
    process.until(|status| status.last_error.is_some()).await;
    let status = process.status();
    assert!(status.entries == 3 && status.bytes > 3000 + 5 * MIB as u64 && status.oldest.is_some(), "{status:?}");
    assert!(status.last_error.unwrap().contains("broken"));
    assert!(process.metrics.encode().contains("remora_journal_entries 3\n"), "{}", process.metrics.encode());
    assert!(process.cache.status().spool.bytes >= status.bytes);
    assert_eq!((machine.store.keys().len(), machine.spool_files()), (0, 0));

    machine.faults.fails_with(Fault::None);
    process.until_empty().await;
    assert!(machine.has(&one) && machine.has(&two));
    assert_eq!(machine.published(), sorted(&[&one, &two]));
    assert_eq!((machine.files(""), process.cache.status().spool.bytes), (Vec::new(), 0));
    assert_eq!(process.status(), JournalStatus::default());
    assert!(process.metrics.encode().contains("remora_journal_bytes 0\n"));
}

#[tokio::test]
async fn a_later_export_need_not_send_what_is_in_the_journal_and_one_to_the_store_must() {
    let machine = Machine::new();
    machine.faults.fails_with(Fault::UnavailableWrites);
    let process = machine.start().await;
    let blob = content(3000, 1);
    process.put(&local(), &blob).await.unwrap();
    let found = process.cache.blobs().find_to_reuse(&local(), &Digest::of(&blob)).await.unwrap();
    assert_eq!(found.size, 3000);
    let found = process.cache.blobs().find_to_reuse(&builder().build(), &Digest::of(&blob)).await;
    assert!(matches!(found, Err(Error::NotFound(_))), "{found:?}");
    let refused = process.publish(&builder().build(), &[&blob]).await;
    assert!(matches!(refused, Err(Error::Precondition(_))), "{refused:?}");
}

#[tokio::test]
async fn manifests_of_one_name_are_published_in_their_order_and_all_of_them() {
    let machine = Machine::new();
    let process = machine.start().await;
    let blobs: Vec<_> = (0..9).map(|seed| content(100 + usize::from(seed), seed)).collect();
    for blob in &blobs {
        process.put(&local(), blob).await.unwrap();
        process.publish(&local(), &[blob]).await.unwrap();
    }
    machine.faults.fails_with(Fault::None);
    process.until_empty().await;
    let all: Vec<&[u8]> = blobs.iter().map(Vec::as_slice).collect();
    assert_eq!(machine.published(), sorted(&all));
}

#[tokio::test]
async fn a_blob_that_a_manifest_names_and_nobody_has_is_left_out() {
    let machine = Machine::new();
    let process = machine.start().await;
    let (there, nowhere) = (content(3000, 1), content(3000, 2));
    process.put(&local(), &there).await.unwrap();
    process.publish(&local(), &[&there, &nowhere]).await.unwrap();
    machine.faults.fails_with(Fault::None);
    process.until_empty().await;
    assert_eq!(machine.published(), sorted(&[&there]));
}

#[tokio::test]
async fn a_refusal_of_the_store_keeps_the_entry_and_says_so() {
    let machine = Machine::new();
    machine.faults.fails_with(Fault::Expired);
    let process = machine.start().await;
    process.put(&local(), &content(3000, 1)).await.unwrap();
    process.until(|status| status.last_error.as_ref().is_some_and(|error| error.contains("ExpiredToken"))).await;
    assert_eq!((process.status().entries, machine.files(".data").len()), (1, 1));
}

#[tokio::test]
async fn parts_in_any_order_are_joined_here_and_the_store_hears_of_none() {
    let machine = Machine::new();
    let process = machine.start().await;
    let cache = &process.cache;
    let grant = local();
    let blob = content(20 * MIB + 5, 1);
    let item = Item::Blob(Digest::of(&blob));
    let id = cache.uploads().begin(&grant, item.clone()).unwrap();
    let (parts, mut sent): (Vec<&[u8]>, _) = (blob.chunks(5 * MIB).collect(), BTreeMap::new());
    let other = content(5 * MIB, 7);
    for (number, part) in [(3_u16, parts[2]), (1, parts[0]), (2, &other), (2, parts[1]), (3, parts[2]), (5, parts[4]), (4, parts[3])] {
        let part = NewPart { number, size: part.len() as u64, body: incoming(part) };
        sent.insert(number, cache.uploads().take_part(&grant, &item, &id, part).await.unwrap());
    }
    let sent: Vec<_> = sent.into_iter().collect();
    cache.uploads().complete(&grant, &item, &id, &sent, Condition::None).await.unwrap();
    assert_eq!((process.status().entries, machine.store.begun_uploads(), machine.spool_files()), (1, 0, 0));
    machine.faults.fails_with(Fault::None);
    process.until_empty().await;
    assert!(machine.has(&blob));
}

#[tokio::test]
async fn a_large_blob_of_a_session_goes_to_the_journal_and_in_parts_from_there() {
    let machine = Machine::new();
    let process = machine.start_unharmed().await;
    machine.store.refuse_parts(&[2]);
    let grant = builder().durability(Durability::Local).documents(Arc::new(Documents::new(1 << 20))).build();
    let blob: Bytes = content(20 * MIB, 1).into();
    process.send(&grant, &blob).await;
    assert_eq!((process.status().entries, machine.spool_files()), (1, 0));
    process.until(|status| status.last_error.is_some()).await;
    machine.store.refuse_parts(&[]);
    process.until_empty().await;
    assert!(machine.has(&blob));
    machine.store.wait_for_no_upload().await;
}

#[tokio::test]
async fn an_export_to_the_place_of_something_else_is_given_up_and_leaves_it() {
    let machine = Machine::new();
    let process = machine.start().await;
    let blob = content(3000, 1);
    process.put(&local(), &blob).await.unwrap();
    process.publish(&local(), &[&blob]).await.unwrap();
    machine.store.plant("manifests/app", Bytes::from_static(b"not a manifest"), OffsetDateTime::now_utc());
    machine.faults.fails_with(Fault::None);
    process.until_empty().await;
    assert!(machine.has(&blob));
    assert_eq!(machine.store.bytes("manifests/app").unwrap(), &b"not a manifest"[..]);
}
