//! What a process leaves when it is killed, and what becomes of its bytes.

use super::*;

#[tokio::test]
async fn the_next_start_goes_on_where_a_killed_process_was() {
    let machine = Machine::new();
    let process = machine.start().await;
    let (one, two) = (content(3000, 1), content(4000, 2));
    process.put(&local(), &one).await.unwrap();
    process.put(&local(), &two).await.unwrap();
    process.publish(&local(), &[&one, &two]).await.unwrap();
    process.kill();

    let process = machine.start().await;
    assert_eq!((process.status().entries, process.cache.status().spool.bytes >= 7000), (3, true));
    process.kill();
    // The next kill came between a blob and its manifest: the first blob was stored, and its entry half removed.
    machine.store.plant(&key(&one), one.clone().into(), time::OffsetDateTime::now_utc());
    std::fs::remove_file(&machine.files(".json")[0]).unwrap();
    // It also came in the middle of writing another entry.
    for half in ["00000000000000000009.data", "00000000000000000009.tmp"] {
        std::fs::write(machine.journal().join(half), "half").unwrap();
    }
    machine.faults.fails_with(Fault::None);
    let process = machine.start().await;
    assert!(machine.files(".data").len() <= 2 && machine.files(".tmp").is_empty());
    process.until_empty().await;
    assert!(machine.has(&one) && machine.has(&two));
    assert_eq!(machine.published(), sorted(&[&one, &two]));
    assert_eq!(machine.files(""), Vec::<PathBuf>::new());
    // New entries do not collide with what was there before.
    process.put(&local(), &content(5, 3)).await.unwrap();
    process.until_empty().await;
    assert!(machine.has(&content(5, 3)));
}

#[tokio::test]
async fn a_damaged_blob_is_never_stored_and_what_needs_it_not_published() {
    let machine = Machine::new();
    let process = machine.start().await;
    let (damaged, cut, good) = (content(3000, 1), content(3000, 2), content(3000, 3));
    for blob in [&damaged, &cut, &good] {
        process.put(&local(), blob).await.unwrap();
    }
    process.publish(&local(), &[&damaged, &cut, &good]).await.unwrap();
    process.kill();
    let data = machine.files(".data");
    let mut bytes = std::fs::read(&data[0]).unwrap();
    bytes[1000] ^= 1;
    std::fs::write(&data[0], bytes).unwrap();
    std::fs::write(&data[1], &cut[..2999]).unwrap();
    machine.faults.fails_with(Fault::None);
    let process = machine.start().await;
    process.until_empty().await;
    assert_eq!((machine.has(&good), machine.published()), (true, sorted(&[&good])));
    assert_eq!(machine.store.keys().len(), 2);
    assert_eq!(machine.files(""), Vec::<PathBuf>::new());
}

#[tokio::test]
async fn a_damaged_manifest_or_entry_is_dropped_and_the_rest_goes_on() {
    let machine = Machine::new();
    let process = machine.start().await;
    let blobs = [content(3000, 1), content(3000, 2)];
    for blob in &blobs {
        process.put(&local(), blob).await.unwrap();
    }
    process.publish(&local(), &[&blobs[0]]).await.unwrap();
    process.kill();
    std::fs::write(&machine.files(".json")[0], "{").unwrap();
    std::fs::write(&machine.files(".data")[2], manifest(&[])).unwrap();
    machine.faults.fails_with(Fault::None);
    let process = machine.start().await;
    process.until_empty().await;
    assert_eq!(machine.store.keys(), [key(&blobs[1])]);
    assert_eq!(machine.files(""), Vec::<PathBuf>::new());
}
