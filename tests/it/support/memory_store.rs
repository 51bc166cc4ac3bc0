//! A bucket in memory, which shows what is going on in it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use remora::store::{Body, Condition, Error, GuardedStore, Meta, MultipartId, Object, Page, Part, Result, Store};
use remora::types::{ByteRange, Digest, ETag, Key};
use time::OffsetDateTime;
use tokio::sync::{Notify, watch};

/// Bodies are read in chunks of this size.
const CHUNK_BYTES: usize = 64 << 10;

/// A bucket in memory. All clones share it.
#[derive(Debug, Clone)]
pub(crate) struct MemoryStore(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    objects: Mutex<BTreeMap<String, (Bytes, Meta)>>,
    /// Bodies that are being read, and bytes that went out in all.
    reads: watch::Sender<Reads>,
    calls: Mutex<Calls>,
    conditions: Conditions,
    parts: Mutex<Parts>,
    /// The version that an object becomes when it is touched; `None`: it stays the same.
    touched: Mutex<Option<String>>,
    /// Objects whose bodies never come.
    stalled: Mutex<BTreeSet<String>>,
    /// The offset beyond which the bodies of an object do not go for now.
    limits: Mutex<BTreeMap<String, watch::Sender<usize>>>,
    /// A part was stored, or an upload ended.
    changed: Notify,
}

/// What a store makes of conditional writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Conditions {
    Heeded,
    /// They are refused with an error, as by some S3-compatible stores.
    Refused,
    /// The condition is ignored in silence, as by other stores.
    Ignored,
}

/// Calls by their kind.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Calls {
    pub(crate) heads: usize,
    pub(crate) gets: usize,
    pub(crate) puts: usize,
    pub(crate) touches: usize,
    pub(crate) lists: usize,
}

/// Objects that arrive in parts.
#[derive(Debug, Default)]
struct Parts {
    /// Stored parts, by upload and number.
    open: BTreeMap<String, BTreeMap<u16, (Bytes, ETag)>>,
    begun: usize,
    stored: usize,
    /// Numbers that cannot be stored now.
    refused: BTreeSet<u16>,
}

/// What was read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Reads {
    /// Bodies that are neither finished nor dropped.
    pub(crate) open: usize,
    /// Bodies that were asked for, ever.
    pub(crate) begun: usize,
    /// Bytes of bodies that were asked for, ever.
    pub(crate) bytes: u64,
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new(Conditions::Heeded)
    }
}

impl MemoryStore {
    pub(crate) fn new(conditions: Conditions) -> Self {
        let objects = Mutex::default();
        let reads = watch::Sender::new(Reads::default());
        let calls = Mutex::default();
        let parts = Mutex::default();
        let touched = Mutex::default();
        let stalled = Mutex::default();
        let changed = Notify::new();
        let limits = Mutex::default();
        Self(Arc::new(Inner { objects, reads, calls, conditions, parts, touched, stalled, limits, changed }))
    }

    /// The calls since this was last asked.
    pub(crate) fn calls(&self) -> Calls {
        std::mem::take(&mut *self.0.calls.lock().unwrap())
    }

    fn count(&self, count: impl FnOnce(&mut Calls)) {
        count(&mut self.0.calls.lock().unwrap());
    }

    /// The keys of all objects.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.0.objects.lock().unwrap().keys().cloned().collect()
    }

    /// An object's bytes.
    pub(crate) fn bytes(&self, key: &str) -> Option<Bytes> {
        self.0.objects.lock().unwrap().get(key).map(|(bytes, _)| bytes.clone())
    }

    /// Stores an object past remora.
    pub(crate) fn plant(&self, key: &str, bytes: Bytes, modified: OffsetDateTime) {
        let etag = Digest::of(&bytes).to_string();
        self.plant_version(key, bytes, modified, &etag[7..39]);
    }

    /// As [`Self::plant`], with `etag` as the object's version.
    pub(crate) fn plant_version(&self, key: &str, bytes: Bytes, modified: OffsetDateTime, etag: &str) {
        let etag = ETag::new(etag);
        let meta = Meta { size: bytes.len() as u64, etag, modified };
        self.0.objects.lock().unwrap().insert(key.to_owned(), (bytes, meta));
    }

    /// From now on a touch gives an object this version, as a copy in S3 does to an object that was uploaded in parts.
    pub(crate) fn rename_when_touched(&self, etag: &str) {
        *self.0.touched.lock().unwrap() = Some(etag.to_owned());
    }

    /// The bodies of an object never come from now on.
    pub(crate) fn stall(&self, key: &str) {
        self.0.stalled.lock().unwrap().insert(key.to_owned());
    }

    /// From now on the bodies of an object stop at `end`, those included that are being read.
    pub(crate) fn limit(&self, key: &str, end: usize) {
        self.0.limits.lock().unwrap().entry(key.to_owned()).or_insert_with(|| watch::Sender::new(end)).send_replace(end);
    }

    /// Deletes an object past remora.
    pub(crate) fn remove(&self, key: &str) {
        self.0.objects.lock().unwrap().remove(key);
    }

    /// Uploads in parts that are neither complete nor aborted.
    pub(crate) fn open_uploads(&self) -> usize {
        self.0.parts.lock().unwrap().open.len()
    }

    /// Uploads in parts that were begun, ever.
    pub(crate) fn begun_uploads(&self) -> usize {
        self.0.parts.lock().unwrap().begun
    }

    /// The numbers of parts that cannot be stored from now on.
    pub(crate) fn refuse_parts(&self, numbers: &[u16]) {
        self.0.parts.lock().unwrap().refused = numbers.iter().copied().collect();
    }

    /// Waits until so many parts of open uploads are stored.
    pub(crate) async fn wait_for_parts(&self, count: usize) {
        self.wait(|parts| parts.open.values().map(BTreeMap::len).sum::<usize>() >= count).await;
    }

    /// Waits until no upload is open.
    pub(crate) async fn wait_for_no_upload(&self) {
        self.wait(|parts| parts.open.is_empty()).await;
    }

    async fn wait(&self, reached: impl Fn(&Parts) -> bool) {
        loop {
            let changed = self.0.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if reached(&self.0.parts.lock().unwrap()) {
                return;
            }
            changed.await;
        }
    }

    /// Reads as they begin, go on and end.
    pub(crate) fn reads(&self) -> watch::Receiver<Reads> {
        self.0.reads.subscribe()
    }

    fn find(&self, key: &Key) -> Result<(Bytes, Meta)> {
        self.0.objects.lock().unwrap().get(key.as_str()).cloned().ok_or_else(|| Error::NotFound(key.to_string()))
    }
}

async fn content(body: Body) -> Bytes {
    match body {
        Body::Bytes(bytes) => bytes,
        Body::File { path, offset, len } => {
            let whole = Bytes::from(tokio::fs::read(path).await.unwrap());
            whole.slice(offset as usize..(offset + len) as usize)
        }
    }
}

/// Counts an open read for as long as it lives.
struct OpenRead(Arc<Inner>);

impl OpenRead {
    fn new(inner: &Arc<Inner>) -> Self {
        inner.reads.send_modify(|reads| (reads.open, reads.begun) = (reads.open + 1, reads.begun + 1));
        Self(Arc::clone(inner))
    }
}

impl Drop for OpenRead {
    fn drop(&mut self) {
        self.0.reads.send_modify(|reads| reads.open -= 1);
    }
}

impl GuardedStore for MemoryStore {}

#[async_trait::async_trait]
impl Store for MemoryStore {
    fn url(&self) -> String {
        "memory:".to_owned()
    }

    async fn head(&self, key: &Key) -> Result<Meta> {
        self.count(|calls| calls.heads += 1);
        Ok(self.find(key)?.1)
    }

    async fn get(&self, key: &Key, range: Option<ByteRange>, version: Option<&ETag>) -> Result<Object> {
        self.count(|calls| calls.gets += 1);
        let (bytes, meta) = self.find(key)?;
        if version.is_some_and(|version| *version != meta.etag) {
            return Err(Error::Precondition(key.to_string()));
        }
        let wanted = range.or(ByteRange::new(0, meta.size));
        let range = wanted.map(|wanted| ByteRange::new(wanted.start(), wanted.end().min(meta.size)).ok_or(wanted.start()));
        let range = range.transpose().map_err(|start| Error::Invalid(format!("range begins at {start} of {} bytes", meta.size)))?;
        let part = range.map_or(Bytes::new(), |range| bytes.slice(range.start() as usize..range.end() as usize));
        let read = OpenRead::new(&self.0);
        if self.0.stalled.lock().unwrap().contains(key.as_str()) {
            return Ok(Object { meta, range, body: stream::pending().boxed() });
        }
        let limit = self.0.limits.lock().unwrap().get(key.as_str()).map(watch::Sender::subscribe);
        let end = range.map_or(0, |range| range.end() as usize);
        let body = stream::unfold((part, read, limit), move |(mut rest, read, mut limit)| async move {
            if rest.is_empty() {
                return None;
            }
            let chunk = rest.split_to(CHUNK_BYTES.min(rest.len()));
            if let Some(limit) = &mut limit {
                limit.wait_for(|limit| end - rest.len() <= *limit).await.unwrap();
            }
            read.0.reads.send_modify(|reads| reads.bytes += chunk.len() as u64);
            Some((Ok(chunk), (rest, read, limit)))
        });
        Ok(Object { meta, range, body: body.boxed() })
    }

    async fn put(&self, key: &Key, body: Body, condition: Condition) -> Result<ETag> {
        self.count(|calls| calls.puts += 1);
        let condition = match self.0.conditions {
            Conditions::Heeded => condition,
            Conditions::Refused if condition != Condition::None => return Err(Error::Unsupported("conditional writes".to_owned())),
            Conditions::Refused | Conditions::Ignored => Condition::None,
        };
        let bytes = content(body).await;
        let found = self.find(key).ok().map(|(_, meta)| meta.etag);
        match (condition, found) {
            (Condition::None, _) | (Condition::Absent, None) => {}
            (Condition::Matches(wanted), Some(found)) if wanted == found => {}
            _ => return Err(Error::Precondition(key.to_string())),
        }
        self.plant(key.as_str(), bytes, OffsetDateTime::now_utc());
        Ok(self.find(key)?.1.etag)
    }

    async fn begin_multipart(&self, _: &Key) -> Result<MultipartId> {
        let mut parts = self.0.parts.lock().unwrap();
        parts.begun += 1;
        let id = format!("upload {}", parts.begun);
        parts.open.insert(id.clone(), BTreeMap::new());
        Ok(MultipartId(id))
    }

    async fn put_part(&self, key: &Key, id: &MultipartId, number: u16, body: Body) -> Result<Part> {
        let bytes = content(body).await;
        let mut parts = self.0.parts.lock().unwrap();
        if parts.refused.contains(&number) {
            return Err(Error::Unavailable(format!("part {number} is refused by the test")));
        }
        parts.stored += 1;
        let etag = ETag::new(&format!("part {}", parts.stored));
        let upload = parts.open.get_mut(&id.0).ok_or_else(|| Error::NotFound(key.to_string()))?;
        upload.insert(number, (bytes, etag.clone()));
        self.0.changed.notify_waiters();
        Ok(Part { number, etag })
    }

    async fn complete_multipart(&self, key: &Key, id: &MultipartId, parts: &[Part], _: Condition) -> Result<ETag> {
        let mut all = self.0.parts.lock().unwrap();
        let upload = all.open.get(&id.0).ok_or_else(|| Error::NotFound(key.to_string()))?;
        let mut joined = Vec::new();
        for part in parts {
            let (bytes, etag) = &upload[&part.number];
            assert_eq!(*etag, part.etag, "part {}", part.number);
            joined.extend_from_slice(bytes);
        }
        all.open.remove(&id.0);
        drop(all);
        self.plant(key.as_str(), joined.into(), OffsetDateTime::now_utc());
        self.0.changed.notify_waiters();
        Ok(self.find(key)?.1.etag)
    }

    async fn abort_multipart(&self, _: &Key, id: &MultipartId) -> Result<()> {
        self.0.parts.lock().unwrap().open.remove(&id.0);
        self.0.changed.notify_waiters();
        Ok(())
    }

    async fn touch(&self, key: &Key) -> Result<()> {
        self.count(|calls| calls.touches += 1);
        let (bytes, meta) = self.find(key)?;
        let touched = self.0.touched.lock().unwrap().clone();
        self.plant_version(key.as_str(), bytes, OffsetDateTime::now_utc(), touched.as_deref().unwrap_or(meta.etag.as_str()));
        Ok(())
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        self.0.objects.lock().unwrap().remove(key.as_str());
        Ok(())
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page> {
        self.count(|calls| calls.lists += 1);
        let objects = self.0.objects.lock().unwrap();
        let behind = objects.iter().filter(|(key, _)| key.starts_with(prefix) && after.is_none_or(|after| key.as_str() > after));
        let mut entries: Vec<_> = behind.take(limit + 1).map(|(key, (_, meta))| (key.clone(), meta.clone())).collect();
        let more = entries.len() > limit;
        entries.truncate(limit);
        Ok(Page { entries, more })
    }

    fn prefers_multipart(&self) -> bool {
        true
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }
}
