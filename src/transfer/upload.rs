//! Uploads in parts that begin while the object still arrives.
//!
//! Parts are sent in the background, many at once, in any order. Nothing is visible before
//! [`Upload::finish`]; an upload that is dropped before is aborted, one that a crash leaves at the next
//! start.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OnceCell, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::orphans::{self, Reminder};
use super::{Budget, Payload};
use crate::shutdown::Shutdown;
use crate::store::{Body, Condition, Error, GuardedStore, MultipartId, Part, Result, Stores};
use crate::types::{BucketName, ETag, Key};

/// Objects up to this size go in one request.
pub const SINGLE_PUT_BYTES: u64 = 16 << 20;
/// Bytes of a part; more where the object would have more than [`MAX_PARTS`].
const PART_BYTES: u64 = 8 << 20;
/// S3's bound.
const MAX_PARTS: u64 = 10_000;
/// Parts in flight, of all uploads.
const REQUESTS: usize = 16;
/// How long a part of a file waits for memory before it is sent from the file, in smaller reads.
const PATIENCE: Duration = Duration::from_secs(5);

/// Bytes of each part, but the last, of an object of `len` bytes.
#[must_use]
pub fn part_bytes(len: u64) -> u64 {
    PART_BYTES.max(len.div_ceil(MAX_PARTS))
}

/// What all uploads share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MultipartUploads(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    memory: Budget,
    requests: Semaphore,
    /// When nothing is looked for any more by its time: an upload of this process would be taken for one of an
    /// earlier run.
    cleared: CancellationToken,
    shutdown: Shutdown,
}

/// An object on its way into a store.
#[derive(Debug)]
pub struct Upload(Arc<Sending>);

#[derive(Debug)]
struct Sending {
    shared: Arc<Shared>,
    store: Arc<dyn GuardedStore>,
    bucket: BucketName,
    key: Key,
    /// Since the first part.
    begun: OnceCell<(MultipartId, Reminder)>,
    parts: Mutex<BTreeMap<u16, Outcome>>,
    given_up: CancellationToken,
    /// Whether nothing is left to abort.
    ended: AtomicBool,
}

/// How sending a part ended; `None`: it has not yet.
type Outcome = watch::Receiver<Option<Result<Part>>>;

impl MultipartUploads {
    /// Uploads with `memory` bytes for all their parts on their way. Aborts, in the background, what earlier
    /// processes left unfinished, as told by files in `dir`.
    ///
    /// # Errors
    /// Where `dir` cannot be read.
    pub async fn open(dir: PathBuf, memory: u64, stores: &Stores, shutdown: Shutdown) -> std::io::Result<Self> {
        let (left, cleared) = (orphans::find(&dir).await?, CancellationToken::new());
        shutdown.spawn(orphans::abort(left, stores.clone(), cleared.clone().drop_guard()));
        let (memory, requests) = (Budget::new(memory), Semaphore::new(REQUESTS));
        Ok(Self(Arc::new(Shared { dir, memory, requests, cleared, shutdown })))
    }

    /// The memory that parts on their way take.
    #[must_use]
    pub fn memory(&self) -> &Budget {
        &self.0.memory
    }

    /// An upload. The store hears of it with the first part.
    #[must_use]
    pub fn begin(&self, store: Arc<dyn GuardedStore>, bucket: BucketName, key: Key) -> Upload {
        Upload(Arc::new(Sending {
            shared: Arc::clone(&self.0),
            store,
            bucket,
            key,
            begun: OnceCell::new(),
            parts: Mutex::default(),
            given_up: CancellationToken::new(),
            ended: AtomicBool::new(false),
        }))
    }
}

impl Upload {
    /// Stores `whole` in parts.
    ///
    /// # Errors
    /// The store's; nothing is left behind then.
    pub async fn put(self, whole: &Payload, condition: Condition) -> Result<ETag> {
        let (len, step) = (whole.body().len(), part_bytes(whole.body().len()));
        let numbers = || (0..len.div_ceil(step)).zip(1_u16..);
        for (index, number) in numbers() {
            self.send(number, whole.slice(index * step, step));
        }
        let stored = self.finish(numbers().map(|(_, number)| number), condition).await;
        if stored.is_err() {
            self.abort().await;
        }
        stored
    }

    /// Sends part `number` (1 to 10,000) in the background. A part that is sent again replaces the
    /// earlier one. All but the last have at least 5 MiB (S3's rule).
    pub fn send(&self, number: u16, piece: Payload) {
        let (ended, outcome) = watch::channel(None);
        let earlier = self.0.parts().insert(number, outcome);
        let sending = Arc::clone(&self.0);
        self.0.shared.shutdown.spawn(async move {
            // The store keeps what comes last, so that must be what was sent last.
            if let Some(mut earlier) = earlier {
                let _ = earlier.wait_for(Option::is_some).await;
            }
            ended.send_replace(Some(sending.store_part(number, piece).await));
        });
    }

    /// Waits until a part is stored.
    ///
    /// # Errors
    /// The store's; [`Error::Invalid`] for a part that was never sent.
    pub async fn sent(&self, number: u16) -> Result<Part> {
        let outcome = self.0.parts().get(&number).cloned();
        let mut outcome = outcome.ok_or_else(|| Error::Invalid(format!("part {number} of {} was not sent", self.0.key)))?;
        // An outcome that can never come is that of a process that stops.
        let settled = outcome.wait_for(Option::is_some).await.map_err(|_| cut_off(&self.0.key))?;
        settled.clone().unwrap_or_else(|| Err(cut_off(&self.0.key)))
    }

    /// Waits for the parts `numbers`, in rising order, and makes them the object.
    ///
    /// # Errors
    /// The store's, where a part could not be stored or the parts not joined. A part that failed may be
    /// sent again, and this be tried again.
    pub async fn finish(&self, numbers: impl IntoIterator<Item = u16, IntoIter: Send> + Send, condition: Condition) -> Result<ETag> {
        let mut parts = Vec::new();
        for number in numbers {
            parts.push(self.sent(number).await?);
        }
        let (id, reminder) = self.0.begun.get().ok_or_else(|| Error::Invalid(format!("parts of {}: want at least one", self.0.key)))?;
        let etag = self.0.store.complete_multipart(&self.0.key, id, &parts, condition).await?;
        self.0.ended.store(true, Ordering::Relaxed);
        reminder.remove();
        Ok(etag)
    }

    /// Gives the upload up, and waits until the store has forgotten its parts.
    pub async fn abort(&self) {
        Arc::clone(&self.0).abort().await;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if !self.0.ended.load(Ordering::Relaxed) && !self.0.parts().is_empty() {
            self.0.shared.shutdown.spawn(Arc::clone(&self.0).abort());
        }
    }
}

impl Sending {
    fn parts(&self) -> MutexGuard<'_, BTreeMap<u16, Outcome>> {
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn store_part(&self, number: u16, piece: Payload) -> Result<Part> {
        if self.given_up.is_cancelled() {
            return Err(cut_off(&self.key));
        }
        // Never cut off: nobody would know of the upload that the store has begun.
        let (id, _) = self.begun.get_or_try_init(|| self.begin()).await?;
        let put = async {
            let _permit = self.shared.requests.acquire().await.map_err(|_| cut_off(&self.key))?;
            let piece = self.read(piece).await?;
            self.store.put_part(&self.key, id, number, piece.body().clone()).await
        };
        tokio::select! {
            stored = put => stored,
            () = self.given_up.cancelled() => Err(cut_off(&self.key)),
        }
    }

    async fn begin(&self) -> Result<(MultipartId, Reminder)> {
        self.shared.cleared.cancelled().await;
        let failed = |error| Error::Internal { message: "cannot write to the spool".to_owned(), source: Some(Arc::new(error)) };
        let mut reminder = Reminder::write(&self.shared.dir, &self.bucket, &self.key).await.map_err(failed)?;
        let id = match self.store.begin_multipart(&self.key).await {
            Ok(id) => id,
            Err(error) => {
                reminder.remove();
                return Err(error);
            }
        };
        if let Err(error) = reminder.complete(&id).await {
            if self.forget(&id).await {
                reminder.remove();
            }
            return Err(failed(error));
        }
        Ok((id, reminder))
    }

    /// A part of a file, read at once where there is memory for it.
    async fn read(&self, piece: Payload) -> Result<Payload> {
        let Body::File { path, offset, len } = piece.body().clone() else { return Ok(piece) };
        if len > SINGLE_PUT_BYTES {
            return Ok(piece);
        }
        let Some(hold) = self.shared.memory.hold(len, PATIENCE).await else { return Ok(piece) };
        let read = tokio::task::spawn_blocking(move || super::payload::read_file(&path, offset, len)).await;
        let failed = |source: Arc<dyn std::error::Error + Send + Sync>| Error::Internal {
            message: format!("cannot read a part of {} from the spool", self.key),
            source: Some(source),
        };
        let bytes = read.map_err(|error| failed(Arc::new(error)))?.map_err(|error| failed(Arc::new(error)))?;
        Ok(Payload::new(Body::Bytes(bytes), hold))
    }

    async fn abort(self: Arc<Self>) {
        if self.ended.swap(true, Ordering::Relaxed) {
            return;
        }
        self.given_up.cancel();
        // A part that arrives after the abort would stay.
        let outcomes: Vec<Outcome> = self.parts().values().cloned().collect();
        for mut outcome in outcomes {
            let _ = outcome.wait_for(Option::is_some).await;
        }
        if let Some((id, reminder)) = self.begun.get()
            && self.forget(id).await
        {
            reminder.remove();
        }
    }

    async fn forget(&self, id: &MultipartId) -> bool {
        let aborted = self.store.abort_multipart(&self.key, id).await;
        if let Err(error) = &aborted {
            tracing::warn!(object.key = self.key.as_str(), %error, "could not abort a multipart upload; the next start tries again");
        }
        aborted.is_ok()
    }
}

fn cut_off(key: &Key) -> Error {
    Error::Unavailable(format!("the upload of {key} was cut off"))
}
