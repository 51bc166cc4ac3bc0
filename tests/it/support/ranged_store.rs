//! One object in memory, in a store that is read in ranges and breaks off as it is told.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use remora::store::{Body, Condition, Error, GuardedStore, Meta, MultipartId, Object, Page, Part, Result, Store};
use remora::types::{ByteRange, Digest, ETag, Key};
use time::OffsetDateTime;
use tokio::sync::watch;

/// Bodies come in chunks of this size.
pub(crate) const CHUNK_BYTES: u64 = 64 << 10;

/// How one GET is answered.
#[derive(Debug, Clone)]
pub(crate) enum Answer {
    Good,
    Refused(fn() -> Error),
    /// With an error after so many bytes.
    BreaksAfter(u64),
    /// With an early end after so many bytes.
    EndsAfter(u64),
    /// With nothing more after so many bytes, and no end.
    StopsAfter(u64),
    /// With a pause before each chunk.
    Trickles(Duration),
    /// Not before the gate is open.
    Waits(Gate),
}

/// Something that calls wait at until a test opens it.
#[derive(Debug, Clone)]
pub(crate) struct Gate(watch::Sender<bool>);

impl Gate {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    pub(crate) fn open(&self) {
        self.0.send_replace(true);
    }
}

type Answers = Box<dyn FnMut(ByteRange) -> Answer + Send>;

/// The store. All clones share the object.
#[derive(Clone)]
pub(crate) struct RangedStore(Arc<Mutex<Inner>>);

struct Inner {
    bytes: Bytes,
    version: ETag,
    answers: Answers,
    /// How long each answer takes to begin.
    latency: Duration,
    /// The pause before each chunk.
    pause: Duration,
    headroom: bool,
    seen: Seen,
}

/// What the store has seen.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seen {
    /// The range and the version of each GET.
    pub(crate) gets: Vec<(Option<ByteRange>, Option<ETag>)>,
    /// Bodies and requests that are neither finished nor dropped.
    pub(crate) open: usize,
    /// The most of them at once.
    pub(crate) most_open: usize,
    /// Bytes that went out.
    pub(crate) sent: u64,
}

impl std::fmt::Debug for RangedStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RangedStore").finish_non_exhaustive()
    }
}

impl RangedStore {
    pub(crate) fn new(bytes: Bytes) -> Self {
        let latency = Duration::ZERO;
        let pause = Duration::ZERO;
        let version = version(&bytes);
        let (answers, seen): (Answers, _) = (Box::new(|_| Answer::Good), Seen::default());
        Self(Arc::new(Mutex::new(Inner { bytes, version, answers, latency, pause, headroom: true, seen })))
    }

    /// Answers each GET as `answers` says.
    pub(crate) fn with_answers(self, answers: impl FnMut(ByteRange) -> Answer + Send + 'static) -> Self {
        self.0.lock().unwrap().answers = Box::new(answers);
        self
    }

    /// Answers after `latency`, and lets `pause` go by before each chunk.
    pub(crate) fn slow(self, latency: Duration, pause: Duration) -> Self {
        {
            let mut inner = self.0.lock().unwrap();
            (inner.latency, inner.pause) = (latency, pause);
        }
        self
    }

    /// Has no capacity for calls that are not needed, such as second requests.
    pub(crate) fn without_headroom(self) -> Self {
        self.0.lock().unwrap().headroom = false;
        self
    }

    pub(crate) fn replace(&self, bytes: Bytes) {
        let mut inner = self.0.lock().unwrap();
        (inner.version, inner.bytes) = (version(&bytes), bytes);
    }

    pub(crate) fn seen(&self) -> Seen {
        self.0.lock().unwrap().seen.clone()
    }

    pub(crate) fn shared(&self) -> Arc<dyn GuardedStore> {
        Arc::new(self.clone())
    }
}

fn version(bytes: &Bytes) -> ETag {
    ETag::new(&Digest::of(bytes).to_string()[7..39])
}

/// Counts a read for as long as it lives.
struct Open(RangedStore);

impl Open {
    fn new(store: &RangedStore) -> Self {
        let seen = &mut store.0.lock().unwrap().seen;
        seen.open += 1;
        seen.most_open = seen.most_open.max(seen.open);
        Self(store.clone())
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.0.lock().unwrap().seen.open -= 1;
    }
}

impl GuardedStore for RangedStore {
    fn has_headroom(&self) -> bool {
        self.0.lock().unwrap().headroom
    }
}

#[async_trait::async_trait]
impl Store for RangedStore {
    fn url(&self) -> String {
        "ranged:".to_owned()
    }

    async fn head(&self, _: &Key) -> Result<Meta> {
        unreachable!("downloads ask for no heads")
    }

    async fn get(&self, key: &Key, range: Option<ByteRange>, version: Option<&ETag>) -> Result<Object> {
        let open = Open::new(self);
        let latency = self.0.lock().unwrap().latency;
        if latency > Duration::ZERO {
            tokio::time::sleep(latency).await;
        }
        let (bytes, etag) = {
            let mut inner = self.0.lock().unwrap();
            inner.seen.gets.push((range, version.cloned()));
            (inner.bytes.clone(), inner.version.clone())
        };
        let meta = Meta { size: bytes.len() as u64, etag, modified: OffsetDateTime::UNIX_EPOCH };
        if version.is_some_and(|version| *version != meta.etag) {
            return Err(Error::Precondition(key.to_string()));
        }
        let Some(wanted) = range.or(ByteRange::new(0, meta.size)) else {
            return Ok(Object { meta, range: None, body: stream::empty().boxed() });
        };
        let found = ByteRange::new(wanted.start(), wanted.end().min(meta.size)).ok_or_else(|| Error::Invalid(wanted.to_header()))?;
        let answer = (self.0.lock().unwrap().answers)(found);
        let mut len = found.len();
        let mut end = None;
        let mut slower = Duration::ZERO;
        let mut stops = false;
        match answer {
            Answer::Good => {}
            Answer::Refused(error) => return Err(error()),
            Answer::BreaksAfter(after) => (len, end) = (after.min(len), Some(Err(Error::Unavailable("as told".to_owned())))),
            Answer::EndsAfter(after) => len = after.min(len),
            Answer::StopsAfter(after) => (len, stops) = (after.min(len), true),
            Answer::Trickles(pause) => slower = pause,
            Answer::Waits(gate) => drop(gate.0.subscribe().wait_for(|open| *open).await),
        }
        let part = bytes.slice(found.start() as usize..(found.start() + len) as usize);
        let body = stream::unfold((part, end, open), move |(mut rest, end, open)| async move {
            let pause = open.0.0.lock().unwrap().pause + slower;
            if pause > Duration::ZERO {
                tokio::time::sleep(pause).await;
            }
            if rest.is_empty() && stops {
                std::future::pending::<()>().await;
            }
            if rest.is_empty() {
                return end.map(|end| (end, (rest, None, open)));
            }
            let chunk = rest.split_to((CHUNK_BYTES as usize).min(rest.len()));
            open.0.0.lock().unwrap().seen.sent += chunk.len() as u64;
            Some((Ok(chunk), (rest, end, open)))
        });
        Ok(Object { meta, range: Some(found), body: body.boxed() })
    }

    async fn put(&self, _: &Key, _: Body, _: Condition) -> Result<ETag> {
        unreachable!("read alone")
    }

    async fn begin_multipart(&self, _: &Key) -> Result<MultipartId> {
        unreachable!("read alone")
    }

    async fn put_part(&self, _: &Key, _: &MultipartId, _: u16, _: Body) -> Result<Part> {
        unreachable!("read alone")
    }

    async fn complete_multipart(&self, _: &Key, _: &MultipartId, _: &[Part], _: Condition) -> Result<ETag> {
        unreachable!("read alone")
    }

    async fn abort_multipart(&self, _: &Key, _: &MultipartId) -> Result<()> {
        unreachable!("read alone")
    }

    async fn touch(&self, _: &Key) -> Result<()> {
        unreachable!("read alone")
    }

    async fn delete(&self, _: &Key) -> Result<()> {
        unreachable!("read alone")
    }

    async fn list(&self, _: &str, _: Option<&str>, _: usize) -> Result<Page> {
        unreachable!("read alone")
    }

    fn prefers_multipart(&self) -> bool {
        true
    }

    async fn check(&self) -> Result<()> {
        Ok(())
    }
}
