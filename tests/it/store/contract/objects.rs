//! Objects: what a read gives of what was written, whole and in part.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use remora::store::{Body, Condition};
use remora::types::{ByteRange, ETag, Key};

use super::{Shared, assert_invalid, assert_not_found, assert_precondition, bytes, file, key, keys, pattern, put, read};

pub(super) async fn an_object_reads_back_as_it_was_stored(store: Shared) {
    let content = pattern(3_000_000, 1);
    let etag = store.put(&key("object"), Body::Bytes(content.clone().into()), Condition::None).await.unwrap();
    let meta = store.head(&key("object")).await.unwrap();
    assert_eq!((meta.size, &meta.etag), (3_000_000, &etag));
    let object = store.get(&key("object"), None, None).await.unwrap();
    assert_eq!((&object.meta, object.range), (&meta, ByteRange::new(0, 3_000_000)));
    assert!(bytes(object).await == content);
}

pub(super) async fn an_empty_object_has_no_range(store: Shared) {
    put(&store, &key("empty"), "").await;
    let object = store.get(&key("empty"), None, None).await.unwrap();
    assert_eq!((object.meta.size, object.range), (0, None));
    assert_eq!(bytes(object).await, b"");
    assert_invalid(store.get(&key("empty"), ByteRange::new(0, 1), None).await);
}

pub(super) async fn a_missing_object_is_not_found(store: Shared) {
    put(&store, &key("there"), "x").await;
    for missing in [key("missing"), Key::new("no/folder/", "missing")] {
        assert_not_found(store.head(&missing).await);
        assert_not_found(store.get(&missing, None, None).await);
        assert_not_found(store.get(&missing, ByteRange::new(0, 1), Some(&ETag::new("any"))).await);
        assert_not_found(store.touch(&missing).await);
        store.delete(&missing).await.unwrap();
    }
    assert_eq!(read(&store, &key("there")).await, b"x");
    let page = store.list("no/", None, 10).await.unwrap();
    assert!(page.entries.is_empty() && !page.more);
}

pub(super) async fn a_folder_is_not_an_object(store: Shared) {
    put(&store, &key("there"), "x").await;
    let folder = Key::new("", "contract");
    assert_not_found(store.head(&folder).await);
    assert_not_found(store.get(&folder, None, None).await);
    store.delete(&folder).await.unwrap();
    assert_eq!(read(&store, &key("there")).await, b"x");
}

pub(super) async fn a_name_and_one_below_it_are_two_objects(store: Shared) {
    for name in ["app/next", "app", "app/next/2"] {
        put(&store, &key(name), name).await;
    }
    store.delete(&key("app/next")).await.unwrap();
    assert_not_found(store.head(&key("app/next")).await);
    for name in ["app", "app/next/2"] {
        assert_eq!(read(&store, &key(name)).await, name.as_bytes());
    }
}

pub(super) async fn ranges_are_cut_and_checked(store: Shared) {
    let content = pattern(1_500_000, 2);
    store.put(&key("ranges"), Body::Bytes(content.clone().into()), Condition::None).await.unwrap();
    for (start, end, cut) in [
        (0, 1, 1),
        (0, 1_500_000, 1_500_000),
        (0, 1_500_001, 1_500_000),
        (0, u64::MAX, 1_500_000),
        (1, 1_499_999, 1_499_999),
        (524_287, 524_289, 524_289),
        (524_288, 1_048_576, 1_048_576),
        (1_499_999, 1_500_000, 1_500_000),
        (1_499_999, 9_999_999, 1_500_000),
    ] {
        let object = store.get(&key("ranges"), ByteRange::new(start as u64, end), None).await.unwrap();
        assert_eq!((object.meta.size, object.range), (1_500_000, ByteRange::new(start as u64, cut)));
        assert!(bytes(object).await == content[start..usize::try_from(cut).unwrap()], "{start}..{end}");
    }
    assert_invalid(store.get(&key("ranges"), ByteRange::new(1_500_000, 1_500_001), None).await);
    assert_invalid(store.get(&key("ranges"), ByteRange::new(9_000_000, 9_000_001), None).await);
}

pub(super) async fn a_get_can_name_its_version(store: Shared) {
    let first = put(&store, &key("versions"), "first").await;
    let object = store.get(&key("versions"), ByteRange::new(1, 3), Some(&first)).await.unwrap();
    assert_eq!(bytes(object).await, b"ir");
    let second = put(&store, &key("versions"), "later").await;
    assert_ne!(first, second);
    assert_precondition(store.get(&key("versions"), None, Some(&first)).await);
    assert_eq!(bytes(store.get(&key("versions"), None, Some(&second)).await.unwrap()).await, b"later");
}

pub(super) async fn a_put_replaces_the_whole_object(store: Shared) {
    let mut versions = Vec::new();
    for text in ["a long first version", "short", "", "long once more, the last one"] {
        versions.push(put(&store, &key("replaced"), text).await);
        assert_eq!(read(&store, &key("replaced")).await, text.as_bytes());
    }
    let last = store.head(&key("replaced")).await.unwrap();
    assert_eq!(Some(&last.etag), versions.last());
    versions.dedup();
    assert_eq!(versions.len(), 4);
}

pub(super) async fn readers_see_the_old_object_or_the_new_one(store: Shared) {
    const LEN: usize = 700_000;
    let versions: Vec<Bytes> = (0..4).map(|version| Bytes::from(vec![version; LEN])).collect();
    let replaced = key("busy");
    store.put(&replaced, Body::Bytes(versions[0].clone()), Condition::None).await.unwrap();
    let writes = async {
        for round in 0..24 {
            store.put(&replaced, Body::Bytes(versions[round % 4].clone()), Condition::None).await.unwrap();
        }
    };
    let reads = async {
        for _ in 0..24 {
            let read = read(&store, &replaced).await;
            assert_eq!(read.len(), LEN);
            assert!(read.iter().all(|byte| *byte == read[0]), "a mix of versions");
        }
    };
    tokio::join!(writes, reads, async { join_all((0..20).map(|_| async { store.head(&replaced).await.unwrap() })).await });
}

pub(super) async fn files_are_stored_whole_and_in_part(store: Shared) {
    const MIB: usize = 1 << 20;
    let content = pattern(22 * MIB, 3);
    let source = file(&content);
    let part = |offset: usize, len: usize| Body::File { path: source.path().to_owned(), offset: offset as u64, len: len as u64 };
    for (name, offset, len) in
        [("whole", 0, 22 * MIB), ("offset", MIB + 7, 20 * MIB), ("front", 0, 5), ("end", 22 * MIB - 3, 3), ("none", 9, 0)]
    {
        let etag = store.put(&key(name), part(offset, len), Condition::None).await.unwrap();
        let meta = store.head(&key(name)).await.unwrap();
        assert_eq!((meta.size, meta.etag), (len as u64, etag));
        assert!(read(&store, &key(name)).await == content[offset..offset + len], "{name}");
    }
    drop(source);
    assert!(read(&store, &key("whole")).await == content, "an object outlives the file it came from");
}

pub(super) async fn a_file_that_is_too_short_is_invalid(store: Shared) {
    let source = file(b"0123456789");
    let path = source.path().to_owned();
    for (offset, len) in [(0, 11), (5, 6), (11, 1), (u64::MAX, 2)] {
        let outcome = store.put(&key("short"), Body::File { path: path.clone(), offset, len }, Condition::None).await;
        assert!(outcome.is_err(), "{offset}+{len}");
    }
    assert_invalid(store.put(&key("short"), Body::File { path: "/no/such/file".into(), offset: 0, len: 1 }, Condition::None).await);
    assert_eq!(keys(&store).await, [""; 0]);
}

pub(super) async fn touch_keeps_the_bytes_and_sets_the_time(store: Shared) {
    let target = key("touched +%é");
    put(&store, &target, "as it was").await;
    let before = store.head(&target).await.unwrap();
    // The times of S3 are whole seconds.
    tokio::time::sleep(Duration::from_millis(2100)).await;
    store.touch(&target).await.unwrap();
    let after = store.head(&target).await.unwrap();
    assert!(after.modified > before.modified, "{before:?} {after:?}");
    assert_eq!(read(&store, &target).await, b"as it was");
}

pub(super) async fn delete_is_idempotent(store: Shared) {
    put(&store, &key("gone"), "x").await;
    put(&store, &key("gone too"), "y").await;
    store.delete(&key("gone")).await.unwrap();
    assert_not_found(store.head(&key("gone")).await);
    store.delete(&key("gone")).await.unwrap();
    assert_eq!(read(&store, &key("gone too")).await, b"y");
}

pub(super) async fn a_check_leaves_nothing_behind(store: Shared) {
    store.check().await.unwrap();
    assert_eq!(keys(&store).await, [""; 0]);
}

pub(super) async fn a_body_may_be_dropped_early(store: Shared) {
    let content = pattern(8 << 20, 5);
    store.put(&key("dropped"), Body::Bytes(content.clone().into()), Condition::None).await.unwrap();
    for _ in 0..4 {
        let mut object = store.get(&key("dropped"), None, None).await.unwrap();
        let first = object.body.next().await.unwrap().unwrap();
        assert!(!first.is_empty() && content.starts_with(&first));
    }
    assert!(read(&store, &key("dropped")).await == content);
}
