//! Objects that arrive in parts.

use bytes::Bytes;
use remora::store::{Body, Condition, MultipartId};
use remora::types::ETag;

use super::{Shared, assert_invalid, assert_not_found, assert_precondition, body, file, key, keys, pattern, put, read};

pub(super) async fn parts_join_in_the_order_given(store: Shared) {
    const PART: usize = 5 << 20;
    let target = key("parts");
    let content = pattern(2 * PART + 1000, 4);
    let source = file(&content);
    let id = store.begin_multipart(&target).await.unwrap();
    let last = Body::Bytes(Bytes::copy_from_slice(&content[2 * PART..]));
    let third = store.put_part(&target, &id, 3, last).await.unwrap();
    let slice = |number: u64| Body::File { path: source.path().to_owned(), offset: (number - 1) * PART as u64, len: PART as u64 };
    let (second, first) = tokio::join!(store.put_part(&target, &id, 2, slice(2)), store.put_part(&target, &id, 1, slice(1)));
    assert_not_found(store.head(&target).await);
    assert_eq!(keys(&store).await, [""; 0]);
    let parts = [first.unwrap(), second.unwrap(), third];
    assert_eq!(parts.each_ref().map(|part| part.number), [1, 2, 3]);
    let etag = store.complete_multipart(&target, &id, &parts, Condition::None).await.unwrap();
    let meta = store.head(&target).await.unwrap();
    assert_eq!((meta.size, meta.etag), (content.len() as u64, etag));
    assert!(read(&store, &target).await == content);
}

pub(super) async fn a_part_sent_again_replaces_the_first(store: Shared) {
    let target = key("again");
    let id = store.begin_multipart(&target).await.unwrap();
    store.put_part(&target, &id, 1, body("first try")).await.unwrap();
    let part = store.put_part(&target, &id, 1, body("second try")).await.unwrap();
    store.complete_multipart(&target, &id, &[part], Condition::None).await.unwrap();
    assert_eq!(read(&store, &target).await, b"second try");
}

pub(super) async fn an_aborted_upload_leaves_nothing(store: Shared) {
    let target = key("aborted");
    let id = store.begin_multipart(&target).await.unwrap();
    let part = store.put_part(&target, &id, 1, body("part")).await.unwrap();
    store.abort_multipart(&target, &id).await.unwrap();
    assert!(store.complete_multipart(&target, &id, &[part], Condition::None).await.is_err());
    assert!(store.put_part(&target, &id, 1, body("part")).await.is_err());
    assert_eq!(keys(&store).await, [""; 0]);
}

pub(super) async fn an_unknown_upload_is_not_found(store: Shared) {
    let target = key("unknown");
    let id = store.begin_multipart(&target).await.unwrap();
    let part = store.put_part(&target, &id, 1, body("part")).await.unwrap();
    store.abort_multipart(&target, &id).await.unwrap();
    for id in [id, MultipartId("0".repeat(32))] {
        assert_not_found(store.put_part(&target, &id, 1, body("part")).await);
        assert_not_found(store.complete_multipart(&target, &id, std::slice::from_ref(&part), Condition::None).await);
        store.abort_multipart(&target, &id).await.unwrap();
    }
}

pub(super) async fn completion_is_conditional(store: Shared) {
    let target = key("conditional parts");
    let etag = put(&store, &target, "old").await;
    let id = store.begin_multipart(&target).await.unwrap();
    let part = [store.put_part(&target, &id, 1, body("new")).await.unwrap()];
    assert_precondition(store.complete_multipart(&target, &id, &part, Condition::Absent).await);
    assert_precondition(
        store.complete_multipart(&target, &id, &part, Condition::Matches(ETag::new("0123456789abcdef0123456789abcdef"))).await,
    );
    assert_eq!(read(&store, &target).await, b"old");
    store.complete_multipart(&target, &id, &part, Condition::Matches(etag)).await.unwrap();
    assert_eq!(read(&store, &target).await, b"new");
}

pub(super) async fn bad_parts_are_refused(store: Shared) {
    let target = key("bad parts");
    let id = store.begin_multipart(&target).await.unwrap();
    for number in [0, 10_001] {
        assert_invalid(store.put_part(&target, &id, number, body("x")).await);
    }
    let first = store.put_part(&target, &id, 1, body("too small")).await.unwrap();
    let second = store.put_part(&target, &id, 2, body("last")).await.unwrap();
    assert_invalid(store.complete_multipart(&target, &id, &[], Condition::None).await);
    assert_invalid(store.complete_multipart(&target, &id, &[second.clone(), first.clone()], Condition::None).await);
    assert_invalid(store.complete_multipart(&target, &id, &[first, second], Condition::None).await);
    assert_not_found(store.head(&target).await);
}
