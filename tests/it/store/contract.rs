//! The contract of `remora::store::Store`: one suite, run on every backend, on MinIO as it is guarded in use.
//!
//! `store_directory.rs` and `store_s3.rs` test what only one of them has.

use std::any::Any;
use std::collections::BTreeSet;
use std::io::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use futures_util::{StreamExt as _, TryStreamExt as _};
use remora::metrics::Metrics;
use remora::shutdown::Shutdown;
use remora::store::{Body, Condition, Directory, Error, Guarded, MultipartId, Object, Policy, S3, Store};
use remora::types::{ByteRange, ETag, Key};
use tempfile::{NamedTempFile, TempDir};

use crate::store::s3::static_config;
use crate::support::fake_s3::FakeS3;
use crate::support::minio::Minio;

/// A store of a fresh bucket, and what must live as long.
struct Backend {
    store: Arc<dyn Store>,
    _kept: Box<dyn Any + Send>,
}

impl Backend {
    async fn directory() -> Self {
        let root = TempDir::new().unwrap();
        let store = Arc::new(Directory::new(root.path(), &"bucket".parse().unwrap()));
        Self { store, _kept: Box::new(root) }
    }

    async fn minio() -> Self {
        let minio = Minio::shared().await;
        let config = static_config(minio.new_bucket().await, minio.endpoint(), minio.access_key(), minio.secret_key());
        let store = Arc::new(S3::connect(config).await.unwrap());
        let (policy, shutdown) = (Policy::default(), Shutdown::default());
        let metrics = Metrics::default().store(store.url());
        Self { store: Arc::new(Guarded::new(store, policy, metrics, shutdown)), _kept: Box::new(()) }
    }

    async fn s3s_fs() -> Self {
        let server = FakeS3::start().await;
        let config = static_config(server.bucket(), server.endpoint(), server.access_key(), server.secret_key());
        Self { store: Arc::new(S3::connect(config).await.unwrap()), _kept: Box::new(server) }
    }
}

macro_rules! suite {
    ($suite:ident on $($backend:ident),+ : $cases:tt) => {
        mod $suite {
            $(mod $backend { suite!(@cases $backend $cases); })+
        }
    };
    (@cases $backend:ident { $($case:ident),* $(,)? }) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let backend = crate::store::contract::Backend::$backend().await;
                crate::store::contract::$case(Arc::clone(&backend.store)).await;
            }
        )*
        use std::sync::Arc;
    };
}

suite!(everywhere on directory, minio, s3s_fs: {
    an_object_reads_back_as_it_was_stored,
    an_empty_object_has_no_range,
    what_is_missing_is_not_found,
    ranges_are_cut_and_checked,
    a_put_replaces_the_whole_object,
    readers_see_the_old_object_or_the_new_one,
    a_put_is_conditional,
    files_are_stored_whole_and_in_part,
    a_file_that_is_too_short_is_invalid,
    touch_keeps_the_bytes_and_sets_the_time,
    delete_is_idempotent,
    parts_join_in_the_order_given,
    a_part_sent_again_replaces_the_first,
    an_aborted_upload_leaves_nothing,
    completion_is_conditional,
    a_check_leaves_nothing_behind,
    a_body_may_be_dropped_early,
});

// s3s-fs 0.14 lacks what these cases test: GET ignores If-Match; a conditional write looks first and
// writes later; an upload that is not there is AccessDenied instead of NoSuchUpload; any part number is
// taken; a list has no ETags; keys are paths, so that a folder's HEAD is a 500 and "app" and "app/next"
// cannot both be stored.
suite!(beyond_s3s_fs on directory, minio: {
    a_folder_is_not_an_object,
    a_name_and_one_below_it_are_two_objects,
    a_get_can_name_its_version,
    of_concurrent_creators_one_wins,
    no_conditional_update_is_lost,
    an_unknown_upload_is_not_found,
    bad_parts_are_refused,
    lists_in_key_order_by_prefix_and_pages,
});

// MinIO stores "app" and "app/next" but does not list the second.
suite!(beyond_minio on directory: {
    lists_names_below_names,
});

type Shared = Arc<dyn Store>;

fn key(leaf: &str) -> Key {
    Key::new("contract/", leaf)
}

fn body(text: &str) -> Body {
    Body::Bytes(Bytes::copy_from_slice(text.as_bytes()))
}

/// Bytes that differ everywhere, so that a shift shows.
fn pattern(len: usize, seed: u32) -> Vec<u8> {
    (0..).map(|at: u32| at.wrapping_mul(2_654_435_761).wrapping_add(seed).to_be_bytes()[0]).take(len).collect()
}

fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

async fn put(store: &Shared, key: &Key, text: &str) -> ETag {
    store.put(key, body(text), Condition::None).await.unwrap()
}

async fn bytes(object: Object) -> Vec<u8> {
    object.body.try_collect::<Vec<Bytes>>().await.unwrap().concat()
}

async fn read(store: &Shared, key: &Key) -> Vec<u8> {
    bytes(store.get(key, None, None).await.unwrap()).await
}

async fn keys(store: &Shared) -> Vec<String> {
    store.list("", None, 1000).await.unwrap().entries.into_iter().map(|(key, _)| key).collect()
}

#[track_caller]
fn assert_not_found<T>(result: Result<T, Error>) {
    let error = result.err();
    assert!(matches!(error, Some(Error::NotFound(_))), "{error:?}");
}

#[track_caller]
fn assert_precondition<T>(result: Result<T, Error>) {
    let error = result.err();
    assert!(matches!(error, Some(Error::Precondition(_))), "{error:?}");
}

#[track_caller]
fn assert_invalid<T>(result: Result<T, Error>) {
    let error = result.err();
    assert!(matches!(error, Some(Error::Invalid(_))), "{error:?}");
}

async fn an_object_reads_back_as_it_was_stored(store: Shared) {
    let content = pattern(3_000_000, 1);
    let etag = store.put(&key("object"), Body::Bytes(content.clone().into()), Condition::None).await.unwrap();
    let meta = store.head(&key("object")).await.unwrap();
    assert_eq!((meta.size, &meta.etag), (3_000_000, &etag));
    let object = store.get(&key("object"), None, None).await.unwrap();
    assert_eq!((&object.meta, object.range), (&meta, ByteRange::new(0, 3_000_000)));
    assert!(bytes(object).await == content);
}

async fn an_empty_object_has_no_range(store: Shared) {
    put(&store, &key("empty"), "").await;
    let object = store.get(&key("empty"), None, None).await.unwrap();
    assert_eq!((object.meta.size, object.range), (0, None));
    assert_eq!(bytes(object).await, b"");
    assert_invalid(store.get(&key("empty"), ByteRange::new(0, 1), None).await);
}

async fn what_is_missing_is_not_found(store: Shared) {
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

async fn a_folder_is_not_an_object(store: Shared) {
    put(&store, &key("there"), "x").await;
    let folder = Key::new("", "contract");
    assert_not_found(store.head(&folder).await);
    assert_not_found(store.get(&folder, None, None).await);
    store.delete(&folder).await.unwrap();
    assert_eq!(read(&store, &key("there")).await, b"x");
}

async fn a_name_and_one_below_it_are_two_objects(store: Shared) {
    for name in ["app/next", "app", "app/next/2"] {
        put(&store, &key(name), name).await;
    }
    store.delete(&key("app/next")).await.unwrap();
    assert_not_found(store.head(&key("app/next")).await);
    for name in ["app", "app/next/2"] {
        assert_eq!(read(&store, &key(name)).await, name.as_bytes());
    }
}

async fn ranges_are_cut_and_checked(store: Shared) {
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

async fn a_get_can_name_its_version(store: Shared) {
    let first = put(&store, &key("versions"), "first").await;
    let object = store.get(&key("versions"), ByteRange::new(1, 3), Some(&first)).await.unwrap();
    assert_eq!(bytes(object).await, b"ir");
    let second = put(&store, &key("versions"), "later").await;
    assert_ne!(first, second);
    assert_precondition(store.get(&key("versions"), None, Some(&first)).await);
    assert_eq!(bytes(store.get(&key("versions"), None, Some(&second)).await.unwrap()).await, b"later");
}

async fn a_put_replaces_the_whole_object(store: Shared) {
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

async fn readers_see_the_old_object_or_the_new_one(store: Shared) {
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

async fn a_put_is_conditional(store: Shared) {
    let target = key("conditional");
    assert_precondition(store.put(&target, body("x"), Condition::Matches(ETag::new("0123456789abcdef0123456789abcdef"))).await);
    assert_not_found(store.head(&target).await);
    let first = store.put(&target, body("first"), Condition::Absent).await.unwrap();
    assert_precondition(store.put(&target, body("x"), Condition::Absent).await);
    let second = store.put(&target, body("second"), Condition::Matches(first.clone())).await.unwrap();
    assert_precondition(store.put(&target, body("x"), Condition::Matches(first)).await);
    assert_eq!(read(&store, &target).await, b"second");
    store.touch(&target).await.unwrap();
    assert_eq!(read(&store, &target).await, b"second");
    store.delete(&target).await.unwrap();
    assert_precondition(store.put(&target, body("x"), Condition::Matches(second)).await);
    assert_eq!(keys(&store).await, [""; 0]);
}

async fn of_concurrent_creators_one_wins(store: Shared) {
    for round in 0..5 {
        let target = key(&format!("created-{round}"));
        let texts: Vec<String> = (0..8).map(|writer| format!("writer {writer}")).collect();
        let puts = texts.iter().map(|text| store.put(&target, body(text), Condition::Absent));
        let outcomes = join_all(puts).await;
        let winners: Vec<&String> = texts.iter().zip(&outcomes).filter_map(|(text, outcome)| outcome.is_ok().then_some(text)).collect();
        assert_eq!(winners.len(), 1, "{outcomes:?}");
        assert_eq!(read(&store, &target).await, winners[0].as_bytes());
        outcomes.into_iter().filter(Result::is_err).for_each(assert_precondition);
    }
}

async fn no_conditional_update_is_lost(store: Shared) {
    const WRITERS: usize = 6;
    const EACH: usize = 8;
    let counter = key("counter");
    // Of one length, so that only the version can tell two of them apart.
    put(&store, &counter, "0000").await;
    let writer = || async {
        for _ in 0..EACH {
            loop {
                let object = store.get(&counter, None, None).await.unwrap();
                let version = object.meta.etag.clone();
                let count: u32 = String::from_utf8(bytes(object).await).unwrap().parse().unwrap();
                match store.put(&counter, body(&format!("{:04}", count + 1)), Condition::Matches(version)).await {
                    Ok(_) => break,
                    Err(Error::Precondition(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    join_all((0..WRITERS).map(|_| writer())).await;
    assert_eq!(read(&store, &counter).await, format!("{:04}", WRITERS * EACH).as_bytes());
}

async fn files_are_stored_whole_and_in_part(store: Shared) {
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

async fn a_file_that_is_too_short_is_invalid(store: Shared) {
    let source = file(b"0123456789");
    let path = source.path().to_owned();
    for (offset, len) in [(0, 11), (5, 6), (11, 1), (u64::MAX, 2)] {
        let outcome = store.put(&key("short"), Body::File { path: path.clone(), offset, len }, Condition::None).await;
        assert!(outcome.is_err(), "{offset}+{len}");
    }
    assert_invalid(store.put(&key("short"), Body::File { path: "/no/such/file".into(), offset: 0, len: 1 }, Condition::None).await);
    assert_eq!(keys(&store).await, [""; 0]);
}

async fn touch_keeps_the_bytes_and_sets_the_time(store: Shared) {
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

async fn delete_is_idempotent(store: Shared) {
    put(&store, &key("gone"), "x").await;
    put(&store, &key("gone too"), "y").await;
    store.delete(&key("gone")).await.unwrap();
    assert_not_found(store.head(&key("gone")).await);
    store.delete(&key("gone")).await.unwrap();
    assert_eq!(read(&store, &key("gone too")).await, b"y");
}

async fn parts_join_in_the_order_given(store: Shared) {
    const PART: usize = 5 << 20;
    let (target, content) = (key("parts"), pattern(2 * PART + 1000, 4));
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

async fn a_part_sent_again_replaces_the_first(store: Shared) {
    let target = key("again");
    let id = store.begin_multipart(&target).await.unwrap();
    store.put_part(&target, &id, 1, body("first try")).await.unwrap();
    let part = store.put_part(&target, &id, 1, body("second try")).await.unwrap();
    store.complete_multipart(&target, &id, &[part], Condition::None).await.unwrap();
    assert_eq!(read(&store, &target).await, b"second try");
}

async fn an_aborted_upload_leaves_nothing(store: Shared) {
    let target = key("aborted");
    let id = store.begin_multipart(&target).await.unwrap();
    let part = store.put_part(&target, &id, 1, body("part")).await.unwrap();
    store.abort_multipart(&target, &id).await.unwrap();
    assert!(store.complete_multipart(&target, &id, &[part], Condition::None).await.is_err());
    assert!(store.put_part(&target, &id, 1, body("part")).await.is_err());
    assert_eq!(keys(&store).await, [""; 0]);
}

async fn an_unknown_upload_is_not_found(store: Shared) {
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

async fn completion_is_conditional(store: Shared) {
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

async fn bad_parts_are_refused(store: Shared) {
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

async fn lists_in_key_order_by_prefix_and_pages(store: Shared) {
    let names = ["app", "app-1", "app!", "app0", "100%", "%2F", "with space", "é", "日本", "a", "b/", "ap/one", "ap/two/2", "z\u{10ffff}"];
    lists(store, &names).await;
}

async fn lists_names_below_names(store: Shared) {
    lists(store, &["app", "app/next", "app/next/2", "app-1", "app0", "dir", "dir/m", "dir/z"]).await;
}

async fn lists(store: Shared, names: &[&str]) {
    // A folder whose keys sort between names that look like its own entries.
    let deeper = [Key::new("odd/ap/", "more"), Key::new("odd/ap/", "zzz"), Key::new("odd/ap/three/", "x")];
    let outside = [Key::new("", "top"), Key::new("odder/", "x"), Key::new("od/", "x")];
    let odd: BTreeSet<String> = names.iter().map(|name| Key::new("odd/", name)).chain(deeper.clone()).map(|key| key.to_string()).collect();
    for key in names.iter().map(|name| Key::new("odd/", name)).chain(deeper).chain(outside) {
        put(&store, &key, key.as_str()).await;
    }
    let odd: Vec<String> = odd.into_iter().collect();
    for limit in [1, 2, 3, 7, odd.len(), odd.len() + 1, 1000] {
        let mut listed: Vec<String> = Vec::new();
        loop {
            let page = store.list("odd/", listed.last().map(String::as_str), limit).await.unwrap();
            assert!(page.entries.len() <= limit);
            for (key, meta) in page.entries {
                assert_eq!(meta.size, key.len() as u64);
                listed.push(key);
            }
            assert_eq!(page.more, listed.len() < odd.len(), "{limit}: {listed:?}");
            if !page.more {
                break;
            }
        }
        assert_eq!(listed, odd);
    }
    for prefix in ["", "o", "odd", "odd/a", "odd/ap", "odd/ap/", "odd/ap/t", "odd/app", "odd/%", "odd/é", "top", "nothing", "odd/ap/one/"]
    {
        let all = store.list("", None, 1000).await.unwrap().entries;
        let expected: Vec<_> = all.into_iter().filter(|(key, _)| key.starts_with(prefix)).collect();
        assert_eq!(store.list(prefix, None, 1000).await.unwrap().entries, expected, "{prefix}");
    }
    // `after` need not be a key.
    let page = store.list("odd/ap", Some("odd/ap/"), 1).await.unwrap();
    assert_eq!((page.entries[0].0.as_str(), page.more), ("odd/ap/more", true));
    assert_eq!(page.entries[0].1.etag, store.head(&Key::new("odd/ap/", "more")).await.unwrap().etag);
}

async fn a_check_leaves_nothing_behind(store: Shared) {
    store.check().await.unwrap();
    assert_eq!(keys(&store).await, [""; 0]);
}

async fn a_body_may_be_dropped_early(store: Shared) {
    let content = pattern(8 << 20, 5);
    store.put(&key("dropped"), Body::Bytes(content.clone().into()), Condition::None).await.unwrap();
    for _ in 0..4 {
        let mut object = store.get(&key("dropped"), None, None).await.unwrap();
        let first = object.body.next().await.unwrap().unwrap();
        assert!(!first.is_empty() && content.starts_with(&first));
    }
    assert!(read(&store, &key("dropped")).await == content);
}
