//! Uploads that reach the store while their bytes still arrive: nothing is visible before it is verified,
//! nothing stays behind.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use remora::cache::layout::Item;
use remora::cache::{Cache, Condition, Error, Incoming, Ingest, NewPart, Settings, UploadId};
use remora::metrics::Metrics;
use remora::shutdown::Shutdown;
use remora::store::{Directory, S3, Served, Store, Stores};
use remora::types::{Digest, Documents, ETag, Grant, Key, Rights, Scope};
use tempfile::TempDir;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::store::s3::static_config;
use crate::support::fault_store::{Fault, FaultStore};
use crate::support::memory_store::MemoryStore;
use crate::support::minio::Minio;
use crate::support::settings::settings;

const PART: usize = 5 << 20;
/// Parts that the memory holds.
const IN_MEMORY: usize = (64 << 20) / PART;
/// As the engine cuts ingests.
const OWN_PART: usize = 8 << 20;

struct Fixture {
    dir: TempDir,
    store: MemoryStore,
    cache: Cache,
    grant: Grant,
}

/// An upload of a blob, part by part.
struct Sender<'a> {
    cache: &'a Cache,
    grant: &'a Grant,
    item: Item,
    id: UploadId,
    parts: BTreeMap<u16, ETag>,
}

fn grant() -> Grant {
    Grant::operator(Scope::new("bucket".parse().unwrap(), "").unwrap())
}

async fn open(dir: &TempDir, store: Arc<dyn Store>) -> Cache {
    let served = Served { store, region: None, prefix: String::new() };
    let stores = Stores::Buckets { served: BTreeMap::from([("bucket".parse().unwrap(), served)]), default: "bucket".parse().unwrap() };
    let spool = dir.path().join("spool");
    let settings = Settings { max_manifest_bytes: 32 << 20, max_open_ingests: 8, transfer_memory: 128 << 20, ..settings(spool) };
    Cache::open(stores, settings, Metrics::default(), Shutdown::default()).await.unwrap()
}

impl Fixture {
    async fn new() -> Self {
        let (dir, store) = (tempfile::tempdir().unwrap(), MemoryStore::default());
        let cache = open(&dir, Arc::new(store.clone())).await;
        Self { dir, store, cache, grant: grant() }
    }

    fn begin(&self, digest: Digest) -> Sender<'_> {
        Sender::begin(&self.cache, &self.grant, digest)
    }

    fn stored(&self, content: &[u8]) -> bool {
        self.store.bytes(&format!("blobs/{}", Digest::of(content))).is_some_and(|bytes| bytes == content)
    }

    fn spool_files(&self) -> usize {
        std::fs::read_dir(self.dir.path().join("spool")).unwrap().count()
    }
}

impl<'a> Sender<'a> {
    fn begin(cache: &'a Cache, grant: &'a Grant, digest: Digest) -> Self {
        let item = Item::Blob(digest);
        let id = cache.begin_upload(grant, item.clone()).unwrap();
        Self { cache, grant, item, id, parts: BTreeMap::new() }
    }

    async fn send(&mut self, number: u16, part: &[u8]) {
        let part = NewPart { number, size: part.len() as u64, body: incoming(part) };
        let etag = self.cache.upload_part(self.grant, &self.item, &self.id, part).await.unwrap();
        self.parts.insert(number, etag);
    }

    async fn complete(&self) -> Result<ETag, Error> {
        let parts: Vec<_> = self.parts.clone().into_iter().collect();
        self.cache.complete_upload(self.grant, &self.item, &self.id, &parts, Condition::None).await
    }
}

/// In pieces, as a network brings them.
fn incoming(content: &[u8]) -> Incoming {
    let pieces: Vec<_> = content.chunks(100_000).map(|piece| Ok(Bytes::copy_from_slice(piece))).collect();
    Box::pin(stream::iter(pieces))
}

fn content(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}

#[tokio::test]
async fn parts_in_any_order_and_repeated_reach_the_store_while_others_arrive() {
    let fixture = Fixture::new().await;
    let bytes = content(PART * 4 + 77);
    let parts: Vec<&[u8]> = bytes.chunks(PART).collect();
    let mut sender = fixture.begin(Digest::of(&bytes));
    for number in [3_u16, 1, 5, 1, 3, 2] {
        sender.send(number, parts[usize::from(number) - 1]).await;
    }
    fixture.store.wait_for_parts(4).await;
    assert!(fixture.store.keys().is_empty());
    sender.send(4, parts[3]).await;
    sender.complete().await.unwrap();
    assert!(fixture.stored(&bytes));
    assert_eq!((fixture.store.open_uploads(), fixture.store.begun_uploads(), fixture.spool_files()), (0, 1, 0));
}

#[tokio::test(start_paused = true)]
async fn a_part_that_had_its_turn_gives_its_memory_back_at_once() {
    let fixture = Fixture::new().await;
    // Twice what the memory holds, each pair in the wrong order.
    let bytes = content(PART * 28);
    let mut sender = fixture.begin(Digest::of(&bytes));
    let begun = tokio::time::Instant::now();
    for (pair, first) in bytes.chunks(2 * PART).zip((1_u16..).step_by(2)) {
        sender.send(first + 1, &pair[PART..]).await;
        sender.send(first, &pair[..PART]).await;
    }
    sender.complete().await.unwrap();
    // The clock stands still while anything is done: this is what parts have waited for memory.
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(fixture.stored(&bytes));
}

#[tokio::test(start_paused = true)]
async fn the_part_that_all_others_wait_for_does_not_wait_for_them() {
    let fixture = Fixture::new().await;
    // The first comes last, when the others have taken all memory.
    let bytes = content(PART * (1 + IN_MEMORY));
    let mut sender = fixture.begin(Digest::of(&bytes));
    let begun = tokio::time::Instant::now();
    for (number, part) in (1..).zip(bytes.chunks(PART)).skip(1) {
        sender.send(number, part).await;
    }
    sender.send(1, &bytes[..PART]).await;
    sender.complete().await.unwrap();
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    assert!(fixture.stored(&bytes));
}

#[tokio::test]
async fn a_part_may_be_sent_again_after_it_was_hashed() {
    let fixture = Fixture::new().await;
    let bytes = content(PART * 3 + 5);
    let parts: Vec<&[u8]> = bytes.chunks(PART).collect();
    let mut sender = fixture.begin(Digest::of(&bytes));
    for number in [1_u16, 2, 3, 2, 4, 1] {
        sender.send(number, parts[usize::from(number) - 1]).await;
    }
    sender.complete().await.unwrap();
    assert!(fixture.stored(&bytes));

    // Other bytes at first: what was hashed behind them must come again, and no less.
    let other = content(PART + 1).split_off(1);
    let mut sender = fixture.begin(Digest::of(&bytes));
    for (number, part) in [(1_u16, parts[0]), (2, &other), (3, parts[2]), (4, parts[3]), (2, parts[1])] {
        sender.send(number, part).await;
    }
    let lost = sender.complete().await;
    assert!(matches!(&lost, Err(Error::Invalid(why)) if why.contains("part 3")), "{lost:?}");
    for number in [3_u16, 4] {
        sender.send(number, parts[usize::from(number) - 1]).await;
    }
    sender.complete().await.unwrap();
    assert!(fixture.stored(&bytes));
    assert_eq!((fixture.store.open_uploads(), fixture.spool_files()), (0, 0));
}

#[tokio::test]
async fn numbers_may_have_gaps() {
    let fixture = Fixture::new().await;
    let bytes = content(PART * 2 + 9);
    let mut sender = fixture.begin(Digest::of(&bytes));
    for (number, part) in [7_u16, 1, 4].into_iter().zip([&bytes[PART * 2..], &bytes[..PART], &bytes[PART..PART * 2]]) {
        sender.send(number, part).await;
    }
    sender.complete().await.unwrap();
    assert!(fixture.stored(&bytes));
}

#[tokio::test]
async fn bytes_with_another_digest_leave_nothing_in_the_store() {
    let fixture = Fixture::new().await;
    let bytes = content(PART * 2);
    let mut sender = fixture.begin(Digest::of(b"other"));
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
async fn an_abort_is_one_in_the_store_too() {
    let fixture = Fixture::new().await;
    let bytes = content(PART);
    let mut sender = fixture.begin(Digest::of(&bytes));
    sender.send(1, &bytes).await;
    fixture.store.wait_for_parts(1).await;
    fixture.cache.abort_upload(&fixture.grant, &sender.item, &sender.id).await.unwrap();
    assert_eq!((fixture.store.open_uploads(), fixture.spool_files()), (0, 0));
}

#[tokio::test]
async fn a_store_that_fails_is_named_and_the_part_may_be_sent_again() {
    let fixture = Fixture::new().await;
    let bytes = content(PART * 3);
    let parts: Vec<&[u8]> = bytes.chunks(PART).collect();
    fixture.store.refuse_parts(&[2]);
    let mut sender = fixture.begin(Digest::of(&bytes));
    for number in [1_u16, 2, 3] {
        sender.send(number, parts[usize::from(number) - 1]).await;
    }
    let failed = sender.complete().await;
    assert!(matches!(&failed, Err(Error::Unavailable(why)) if why.contains("part 2 is refused")), "{failed:?}");
    assert!(fixture.store.keys().is_empty());
    fixture.store.refuse_parts(&[]);
    sender.send(2, parts[1]).await;
    sender.complete().await.unwrap();
    assert!(fixture.stored(&bytes));
    assert_eq!((fixture.store.open_uploads(), fixture.spool_files()), (0, 0));
}

#[tokio::test]
async fn what_a_killed_process_left_in_the_store_goes_at_the_next_start() {
    let fixture = Fixture::new().await;
    let bytes = content(PART * 2);
    let mut sender = fixture.begin(Digest::of(&bytes));
    sender.send(1, &bytes[..PART]).await;
    fixture.store.wait_for_parts(1).await;
    assert_eq!(fixture.spool_files(), 1);
    let Fixture { dir, store, cache, .. } = fixture;
    // A process that is killed drops nothing.
    std::mem::forget(cache);

    let reopened = open(&dir, Arc::new(store.clone())).await;
    store.wait_for_no_upload().await;
    assert!(store.keys().is_empty());
    let grant = grant();
    let mut sender = Sender::begin(&reopened, &grant, Digest::of(&bytes));
    sender.send(1, &bytes[..PART]).await;
    sender.send(2, &bytes[PART..]).await;
    sender.complete().await.unwrap();
    assert_eq!(store.bytes(&format!("blobs/{}", Digest::of(&bytes))).unwrap(), bytes);
}

/// What a process leaves that is killed when S3 has begun its upload and it has not been told so.
struct Unnamed {
    dir: TempDir,
    store: Arc<dyn Store>,
    key: Key,
}

impl Unnamed {
    async fn new() -> Self {
        let minio = Minio::shared().await;
        let config = static_config(minio.new_bucket().await, minio.endpoint(), minio.access_key(), minio.secret_key());
        let (dir, store) = (tempfile::tempdir().unwrap(), Arc::new(S3::connect(config.clone()).await.unwrap()));
        let faults = FaultStore::new(S3::connect(config).await.unwrap());
        faults.fails_with(Fault::SilentBegin);
        let (cache, grant, bytes) = (open(&dir, Arc::new(faults)).await, grant(), content(PART));
        let digest = Digest::of(&bytes);
        Sender::begin(&cache, &grant, digest).send(1, &bytes).await;
        let left = Self { dir, store, key: Key::new("blobs/", &digest.to_string()) };
        while left.uploads().await.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // A process that is killed drops nothing.
        std::mem::forget(cache);
        left
    }

    async fn uploads(&self) -> Vec<String> {
        self.store.list_multipart(&self.key).await.unwrap().into_iter().map(|(id, _)| id.0).collect()
    }

    fn notes(&self) -> Vec<std::path::PathBuf> {
        let files = std::fs::read_dir(self.dir.path().join("spool")).unwrap().map(|file| file.unwrap().path());
        files.filter(|path| path.extension().is_some_and(|extension| extension == "json")).collect()
    }

    /// Lets the note be of another time.
    fn date(&self, asked: OffsetDateTime) {
        let [path] = &self.notes()[..] else { panic!("want one note: {:?}", self.notes()) };
        let mut note: serde_json::Value = serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap();
        assert!(note["id"].is_null(), "{note}");
        note["asked"] = asked.format(&Rfc3339).unwrap().into();
        std::fs::write(path, note.to_string()).unwrap();
    }

    /// Starts again, until the note is gone.
    async fn restart(&self) -> Cache {
        let reopened = open(&self.dir, Arc::clone(&self.store)).await;
        while !self.notes().is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        reopened
    }
}

#[tokio::test]
async fn an_upload_whose_id_a_killed_process_never_heard_goes_at_the_next_start() {
    let left = Unnamed::new().await;
    left.restart().await;
    assert_eq!(left.uploads().await, Vec::<String>::new());
}

#[tokio::test]
async fn an_upload_of_the_same_key_from_another_time_stays() {
    for minutes in [-60, 60] {
        let left = Unnamed::new().await;
        let uploads = left.uploads().await;
        left.date(OffsetDateTime::now_utc() + time::Duration::minutes(minutes));
        left.restart().await;
        assert_eq!(left.uploads().await, uploads);
    }
}

#[tokio::test]
async fn an_upload_that_the_store_refuses_to_begin_leaves_no_note() {
    let (dir, faults, grant, bytes) = (tempfile::tempdir().unwrap(), FaultStore::new(MemoryStore::default()), grant(), content(PART));
    let cache = open(&dir, Arc::new(faults.clone())).await;
    faults.fails_with(Fault::UnavailableWrites);
    let mut sender = Sender::begin(&cache, &grant, Digest::of(&bytes));
    sender.send(1, &bytes).await;
    assert!(matches!(sender.complete().await, Err(Error::Unavailable(_))));
    assert_eq!(std::fs::read_dir(dir.path().join("spool")).unwrap().count(), 0);
}

#[tokio::test]
async fn more_than_the_memory_holds_goes_through_the_spool() {
    let fixture = Fixture::new().await;
    let bytes = content(20 << 20);
    let mut sender = fixture.begin(Digest::of(&bytes));
    sender.send(1, &bytes).await;
    sender.complete().await.unwrap();
    assert!(fixture.stored(&bytes));

    let whole = content((20 << 20) + 1);
    fixture.cache.put_blob(&fixture.grant, &Digest::of(&whole), whole.len() as u64, incoming(&whole)).await.unwrap();
    assert!(fixture.stored(&whole));
    assert_eq!((fixture.store.open_uploads(), fixture.store.begun_uploads(), fixture.spool_files()), (0, 2, 0));
}

#[tokio::test]
async fn an_ingest_is_sent_while_it_is_written() {
    let fixture = Fixture::new().await;
    let bytes = content(OWN_PART * 4 + 9);
    let digest = Digest::of(&bytes);
    let mut ingest = fixture.cache.open_ingest(&fixture.grant, "ref", bytes.len() as u64, Some(digest)).await.unwrap();
    ingest.write(0, Bytes::copy_from_slice(&bytes[..OWN_PART * 3])).await.unwrap();
    fixture.store.wait_for_parts(3).await;
    assert!(fixture.store.keys().is_empty());

    // The next writer begins anew in the store, from what the spool has.
    drop(ingest);
    fixture.store.wait_for_no_upload().await;
    fixture.store.refuse_parts(&[2]);
    let mut ingest = fixture.cache.open_ingest(&fixture.grant, "ref", bytes.len() as u64, Some(digest)).await.unwrap();
    assert_eq!(ingest.status().unwrap().offset, (OWN_PART * 3) as u64);
    ingest.write((OWN_PART * 3) as u64, Bytes::copy_from_slice(&bytes[OWN_PART * 3..])).await.unwrap();
    fixture.store.wait_for_parts(3).await;
    fixture.store.refuse_parts(&[]);
    ingest.commit(Some(bytes.len() as u64), Some(digest), BTreeMap::new()).await.unwrap();
    assert!(fixture.stored(&bytes));
    assert_eq!((fixture.store.open_uploads(), fixture.store.begun_uploads(), fixture.spool_files()), (0, 2, 0));
}

fn session() -> Grant {
    let scope = Scope::new("bucket".parse().unwrap(), "").unwrap();
    Grant::builder(scope, Rights::EXPORT).documents(Arc::new(Documents::new(32 << 20))).build()
}

/// As containerd's client does, in messages that end where no part does.
async fn write_all(ingest: &mut Ingest, bytes: &[u8]) -> Result<(), Error> {
    for message in bytes.chunks(1_000_000) {
        ingest.write(ingest.status()?.offset, Bytes::copy_from_slice(message)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_large_blob_of_a_session_goes_into_the_store_and_not_through_the_spool() {
    let (fixture, session) = (Fixture::new().await, session());
    let bytes = content(OWN_PART * 4 + 9);
    let digest = Digest::of(&bytes);
    let mut ingest = fixture.cache.open_ingest(&session, "ref", bytes.len() as u64, Some(digest)).await.unwrap();
    write_all(&mut ingest, &bytes[..OWN_PART * 3 + 5]).await.unwrap();
    fixture.store.wait_for_parts(3).await;
    assert!(fixture.store.keys().is_empty());
    let spool = std::fs::read_dir(fixture.dir.path().join("spool")).unwrap();
    let of_data = |entry: &std::fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "data");
    assert_eq!(spool.map(Result::unwrap).filter(of_data).map(|entry| entry.metadata().unwrap().len()).sum::<u64>(), 0);

    // What the client begins anew, it begins anew.
    ingest.restart().await.unwrap();
    fixture.store.wait_for_no_upload().await;
    write_all(&mut ingest, &bytes).await.unwrap();
    let gap = ingest.write(7, Bytes::from_static(b"gap")).await;
    assert!(matches!(gap, Err(Error::OutOfRange(_))), "{gap:?}");
    let committed = ingest.commit(Some(bytes.len() as u64), Some(digest), BTreeMap::new()).await.unwrap();
    assert_eq!(committed, (digest, bytes.len() as u64));
    assert!(fixture.stored(&bytes));
    assert_eq!((fixture.store.open_uploads(), fixture.store.begun_uploads(), fixture.spool_files()), (0, 2, 0));
}

#[tokio::test]
async fn a_large_blob_of_a_session_that_is_not_what_was_announced_leaves_nothing() {
    let (fixture, session) = (Fixture::new().await, session());
    let (bytes, len) = (content(OWN_PART * 3), (OWN_PART * 3) as u64);
    let (digest, other) = (Digest::of(&bytes), Digest::of(b"other"));
    for (total, announced, committed) in [(len, other, other), (len + 1, digest, digest), (len - 1, digest, digest), (len, digest, other)] {
        let mut ingest = fixture.cache.open_ingest(&session, "ref", total, Some(announced)).await.unwrap();
        let written = write_all(&mut ingest, &bytes).await;
        let ended = match written {
            Ok(()) => ingest.commit(Some(total), Some(committed), BTreeMap::new()).await.map(|_| ()),
            Err(error) => {
                ingest.close().await;
                Err(error)
            }
        };
        assert!(matches!(ended, Err(Error::Precondition(_))), "{total} {announced} {committed}: {ended:?}");
        fixture.store.wait_for_no_upload().await;
        assert!(fixture.store.keys().is_empty());
        assert_eq!(fixture.spool_files(), 0);
    }

    let mut ingest = fixture.cache.open_ingest(&session, "ref", len, Some(digest)).await.unwrap();
    write_all(&mut ingest, &bytes).await.unwrap();
    fixture.store.refuse_parts(&[2]);
    drop(ingest);
    fixture.store.wait_for_no_upload().await;
    assert_eq!(fixture.spool_files(), 0);
}

#[tokio::test]
async fn an_ingest_that_is_not_what_was_announced_leaves_nothing() {
    let fixture = Fixture::new().await;
    let bytes = content(OWN_PART * 3);
    let announced = Digest::of(b"other");
    let mut ingest = fixture.cache.open_ingest(&fixture.grant, "ref", 0, Some(announced)).await.unwrap();
    ingest.write(0, bytes.clone().into()).await.unwrap();
    fixture.store.wait_for_parts(3).await;
    assert!(matches!(ingest.commit(None, Some(announced), BTreeMap::new()).await, Err(Error::Precondition(_))));
    fixture.store.wait_for_no_upload().await;
    assert!(fixture.store.keys().is_empty());
    fixture.cache.abort_ingest(&fixture.grant, "ref").await.unwrap();
    assert_eq!(fixture.spool_files(), 0);

    // Unannounced, small, or like a document of a session: nothing is sent ahead.
    let session = Grant::operator(Scope::new("bucket".parse().unwrap(), "").unwrap());
    for (name, len, expected) in [("unannounced", OWN_PART * 3, None), ("small", OWN_PART * 2, Some(Digest::of(&bytes[..OWN_PART * 2])))] {
        let mut ingest = fixture.cache.open_ingest(&session, name, 0, expected).await.unwrap();
        ingest.write(0, Bytes::copy_from_slice(&bytes[..len])).await.unwrap();
    }
    assert_eq!(fixture.store.begun_uploads(), 1);
}

#[tokio::test]
async fn a_directory_takes_parts_like_any_store() {
    let dir = tempfile::tempdir().unwrap();
    let cache = open(&dir, Arc::new(Directory::new(&dir.path().join("store"), &"bucket".parse().unwrap()))).await;
    let (grant, bytes) = (grant(), content(PART * 3 + 1));
    let mut sender = Sender::begin(&cache, &grant, Digest::of(&bytes));
    for (number, part) in (1_u16..).zip(bytes.chunks(PART)).collect::<Vec<_>>().into_iter().rev() {
        sender.send(number, part).await;
    }
    sender.complete().await.unwrap();
    let stored = dir.path().join("store/bucket/blobs").join(Digest::of(&bytes).to_string());
    assert!(std::fs::read(stored).unwrap() == bytes);
}
