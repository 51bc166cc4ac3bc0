//! What only the directory store has: files that people can find, hard links, full and read-only disks.

use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use remora::store::{Body, Condition, Directory, Error, MultipartId, Store as _};
use remora::types::{ByteRange, ETag, Key};
use tempfile::TempDir;

use crate::support::disk::Tmpfs;

fn bucket(root: &Path) -> Directory {
    Directory::new(root, &"bucket".parse().unwrap())
}

fn body(len: usize) -> Body {
    Body::Bytes(Bytes::from(vec![b'x'; len]))
}

async fn put(store: &Directory, key: &Key) -> Result<(), Error> {
    store.put(key, body(3), Condition::None).await.map(drop)
}

/// All files below `root`.
fn files(root: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    entries.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

#[tokio::test]
async fn plain_keys_are_plain_files() {
    let root = TempDir::new().unwrap();
    let store = bucket(root.path());
    put(&store, &Key::new("blobs/", "sha256:00")).await.unwrap();
    put(&store, &Key::new("manifests/", "team/app")).await.unwrap();
    assert!(root.path().join("bucket/blobs/sha256:00").is_file());
    assert!(root.path().join("bucket/manifests/team%2Fapp").is_file());
    assert_eq!(store.url(), format!("file://{}/bucket", root.path().display()));
    assert!(!store.prefers_multipart());
}

#[tokio::test]
async fn no_key_leaves_the_bucket() {
    let outer = TempDir::new().unwrap();
    let root = outer.path().join("root");
    let store = bucket(&root);
    let tricks =
        [("../../", "x"), ("", "../x"), ("d/", ".."), ("d/", "."), ("d/", ""), ("/", "x"), ("a//../", "x"), ("./", "x"), ("", "a\0b")];
    for (folder, leaf) in tricks {
        let key = Key::new(folder, leaf);
        put(&store, &key).await.unwrap();
        assert_eq!(store.head(&key).await.unwrap().size, 3);
    }
    assert_eq!(files(&root.join("bucket")).len(), tricks.len());
    assert_eq!(fs::read_dir(outer.path()).unwrap().count(), 1);
    let mut expected: Vec<String> = tricks.map(|(folder, leaf)| Key::new(folder, leaf).to_string()).into();
    expected.sort();
    let listed: Vec<String> = store.list("", None, 1000).await.unwrap().entries.into_iter().map(|(key, _)| key).collect();
    assert_eq!(listed, expected);
}

#[tokio::test]
async fn a_whole_file_is_linked_and_a_part_is_copied() {
    let root = TempDir::new().unwrap();
    let store = bucket(root.path());
    let source = root.path().join("spooled");
    fs::write(&source, b"0123456789").unwrap();
    let old = SystemTime::now() - Duration::from_secs(90_000);
    fs::File::options().write(true).open(&source).unwrap().set_modified(old).unwrap();
    let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
    let (whole, part) = (Key::new("", "whole"), Key::new("", "part"));
    let version = store.put(&whole, Body::File { path: source.clone(), offset: 0, len: 10 }, Condition::None).await.unwrap();
    store.put(&part, Body::File { path: source.clone(), offset: 0, len: 9 }, Condition::None).await.unwrap();
    assert_eq!(inode(source.clone()), inode(root.path().join("bucket/whole")));
    assert_ne!(inode(source.clone()), inode(root.path().join("bucket/part")));
    assert!(store.head(&whole).await.unwrap().modified > old + Duration::from_secs(80_000), "stored now");
    // The same file again, there and elsewhere: still the same version, and no leftovers.
    for key in [&whole, &Key::new("", "other")] {
        let again = store.put(key, Body::File { path: source.clone(), offset: 0, len: 10 }, Condition::None).await.unwrap();
        assert_eq!((&again, &store.head(&whole).await.unwrap().etag), (&version, &version));
    }
    assert_eq!(files(&root.path().join(".remora/tmp")), [""; 0].map(PathBuf::from));
}

#[tokio::test]
async fn a_version_survives_touch_and_not_a_change_in_place() {
    let root = TempDir::new().unwrap();
    let store = bucket(root.path());
    let key = Key::new("", "object");
    let version = store.put(&key, body(3), Condition::None).await.unwrap();
    for _ in 0..3 {
        store.touch(&key).await.unwrap();
        assert_eq!(store.head(&key).await.unwrap().etag, version);
    }
    let file = fs::File::options().write(true).open(root.path().join("bucket/object")).unwrap();
    file.write_all_at(b"y", 1).unwrap();
    assert_ne!(store.head(&key).await.unwrap().etag, version);
}

#[tokio::test]
async fn a_file_cut_short_while_it_is_read_is_an_error() {
    let root = TempDir::new().unwrap();
    let store = bucket(root.path());
    let key = Key::new("", "object");
    store.put(&key, body(4 << 20), Condition::None).await.unwrap();
    let object = store.get(&key, ByteRange::new(1, 4 << 20), None).await.unwrap();
    fs::File::options().write(true).open(root.path().join("bucket/object")).unwrap().set_len(3 << 20).unwrap();
    let read: Result<Vec<Bytes>, Error> = object.body.try_collect().await;
    assert!(matches!(read, Err(Error::Unavailable(_))), "{read:?}");
}

#[tokio::test]
async fn names_that_no_file_can_have_are_refused_with_the_reason() {
    let root = TempDir::new().unwrap();
    let store = bucket(root.path());
    let error = put(&store, &Key::new("", &"x".repeat(256))).await.unwrap_err();
    assert!(matches!(&error, Error::Invalid(why) if why.contains("up to 255 bytes")), "{error}");
    put(&store, &Key::new("a/", "b")).await.unwrap();
    for collision in [Key::new("a/b/", "c"), Key::new("a/b/c/", "d"), Key::new("", "a")] {
        let error = put(&store, &collision).await.unwrap_err();
        assert!(matches!(&error, Error::Invalid(why) if why.contains("an object and a folder of one name")), "{error}");
        assert!(matches!(store.head(&collision).await, Err(Error::NotFound(_))));
        store.delete(&collision).await.unwrap();
    }
    assert_eq!(store.head(&Key::new("a/", "b")).await.unwrap().size, 3);
}

#[tokio::test]
async fn an_upload_id_is_never_a_path() {
    let root = TempDir::new().unwrap();
    let store = bucket(root.path());
    let key = Key::new("", "x");
    put(&store, &key).await.unwrap();
    for id in ["../../bucket", "", ".", "/"] {
        let id = MultipartId(id.to_owned());
        assert!(matches!(store.put_part(&key, &id, 1, body(1)).await, Err(Error::NotFound(_))));
        store.abort_multipart(&key, &id).await.unwrap();
    }
    assert_eq!(store.head(&key).await.unwrap().size, 3);
}

#[tokio::test]
async fn foreign_files_are_not_listed() {
    let root = TempDir::new().unwrap();
    let store = bucket(root.path());
    put(&store, &Key::new("", "ours")).await.unwrap();
    for foreign in ["50%", "%41", "a%%"] {
        fs::write(root.path().join("bucket").join(foreign), b"").unwrap();
    }
    std::os::unix::fs::symlink("/", root.path().join("bucket/link")).unwrap();
    let page = store.list("", None, 10).await.unwrap();
    assert_eq!(page.entries.iter().map(|(key, _)| key.as_str()).collect::<Vec<_>>(), ["ours"]);
}

#[tokio::test]
async fn files_that_dead_processes_left_are_swept() {
    let root = TempDir::new().unwrap();
    let state = root.path().join(".remora");
    let aged = |path: PathBuf, hours: u64| {
        let file = fs::File::open(&path).unwrap();
        file.set_modified(SystemTime::now() - Duration::from_secs(hours * 3600)).unwrap();
        path
    };
    let made = |path: PathBuf| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, b"").unwrap();
        path
    };
    let old = aged(made(state.join("tmp/old")), 25);
    let young = aged(made(state.join("tmp/young")), 23);
    let part = made(state.join("multipart/old/00001"));
    aged(state.join("multipart/old"), 25);
    let store = bucket(root.path());
    put(&store, &Key::new("", "x")).await.unwrap();
    assert_eq!([&old, &young, &part].map(|path| path.exists()), [false, true, false]);
    // An hour has not passed, so nothing is swept again.
    aged(young.clone(), 25);
    put(&store, &Key::new("", "x")).await.unwrap();
    assert!(young.exists());
    aged(state.join("swept"), 2);
    put(&store, &Key::new("", "x")).await.unwrap();
    assert!(!young.exists());
}

#[tokio::test]
async fn a_full_disk_is_exhausted_and_works_again_when_it_is_not() {
    let disk = Tmpfs::mount("1m");
    let store = bucket(disk.path());
    let (fits, too_large) = (Key::new("", "fits"), Key::new("", "too large"));
    store.put(&fits, body(600_000), Condition::None).await.unwrap();
    let error = store.put(&too_large, body(600_000), Condition::None).await.unwrap_err();
    assert!(matches!(&error, Error::Exhausted(why) if why.starts_with("no space left")), "{error}");
    assert!(matches!(store.head(&too_large).await, Err(Error::NotFound(_))));
    let id = store.begin_multipart(&too_large).await.unwrap();
    assert!(matches!(store.put_part(&too_large, &id, 1, body(600_000)).await, Err(Error::Exhausted(_))));
    assert_eq!(store.head(&fits).await.unwrap().size, 600_000);
    assert_eq!(files(&disk.path().join(".remora/tmp")).len(), 0);
    store.delete(&fits).await.unwrap();
    store.put(&too_large, body(600_000), Condition::None).await.unwrap();
}

#[tokio::test]
async fn a_read_only_disk_is_denied_and_still_read() {
    let disk = Tmpfs::mount("1m");
    let store = bucket(disk.path());
    let key = Key::new("", "stored");
    put(&store, &key).await.unwrap();
    disk.make_read_only();
    let path = disk.path().display().to_string();
    let denied = [
        put(&store, &key).await,
        store.touch(&key).await,
        store.delete(&key).await,
        store.begin_multipart(&key).await.map(drop),
        store.check().await,
    ];
    for outcome in denied {
        assert!(matches!(&outcome, Err(Error::Denied(why)) if why.contains(&path)), "{outcome:?}");
    }
    assert_eq!(store.head(&key).await.unwrap().size, 3);
    let object = store.get(&key, None, None).await.unwrap();
    assert_eq!(object.body.try_collect::<Vec<Bytes>>().await.unwrap().concat(), b"xxx");
    assert_eq!(store.list("", None, 10).await.unwrap().entries.len(), 1);
}

#[tokio::test]
async fn parts_of_one_length_are_never_copied() {
    let root = TempDir::new().unwrap();
    let store = bucket(root.path());
    let key = Key::new("", "parts");
    let chunk = |byte: u8, len: usize| Body::Bytes(vec![byte; len].into());
    let id = store.begin_multipart(&key).await.unwrap();
    let whole = root.path().join(".remora/multipart").join(&id.0).join("whole");
    let mut parts = Vec::new();
    for (number, len) in [(1, 5 << 20), (3, 7), (2, 5 << 20)] {
        parts.push(store.put_part(&key, &id, number, chunk(number as u8, len)).await.unwrap());
    }
    parts.sort_by_key(|part| part.number);
    let inode = fs::metadata(&whole).unwrap().ino();
    assert!(store.complete_multipart(&key, &id, &parts, Condition::Matches(ETag::new("x"))).await.is_err());
    store.complete_multipart(&key, &id, &parts, Condition::None).await.unwrap();
    let object = root.path().join("bucket/parts");
    assert_eq!(fs::metadata(&object).unwrap().ino(), inode);
    assert!(fs::read(&object).unwrap() == [vec![1; 5 << 20], vec![2; 5 << 20], vec![3; 7]].concat());

    // The last one first, and one again: they have no place, so the whole is copied together.
    let id = store.begin_multipart(&key).await.unwrap();
    let last = store.put_part(&key, &id, 3, chunk(3, 7)).await.unwrap();
    let first = store.put_part(&key, &id, 1, chunk(1, 5 << 20)).await.unwrap();
    store.put_part(&key, &id, 2, chunk(9, 5 << 20)).await.unwrap();
    let second = store.put_part(&key, &id, 2, chunk(2, 6 << 20)).await.unwrap();
    store.complete_multipart(&key, &id, &[first, second, last], Condition::None).await.unwrap();
    assert!(fs::read(&object).unwrap() == [vec![1; 5 << 20], vec![2; 6 << 20], vec![3; 7]].concat());
}
