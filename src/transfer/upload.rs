//! Multipart uploads to a store. They can begin while the object is still arriving.
//!
//! Parts are sent in the background, many at once, in any order. Nothing is visible before [`Upload::finish`]. An upload
//! that is dropped before is aborted; one that a crash leaves behind is aborted at the next start (see [`orphans`]).

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OnceCell, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::orphans::{self, UploadRecord};
use super::{Budget, Payload};
use crate::shutdown::Shutdown;
use crate::store::{Body, Condition, Error, GuardedStore, MultipartId, Part, Result, Stores};
use crate::types::{BucketName, ETag, Key};

/// Objects up to this size are stored with one request.
pub const SINGLE_PUT_BYTES: u64 = 16 << 20;
/// Bytes of a part. Parts are larger where the object would otherwise have more than [`MAX_PARTS`].
const PART_BYTES: u64 = 8 << 20;
/// The most parts that S3 takes.
const MAX_PARTS: u64 = 10_000;
/// Parts in flight, of all uploads.
const REQUESTS: usize = 16;
/// How long a part that is in a file waits for memory. After that it is sent from the file, in smaller reads.
const PATIENCE: Duration = Duration::from_secs(5);

/// The size of every part but the last, for an object of `len` bytes.
#[must_use]
pub fn part_bytes(len: u64) -> u64 {
    PART_BYTES.max(len.div_ceil(MAX_PARTS))
}

/// The multipart uploads that remora itself sends, and what they share. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MultipartUploads(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    memory: Budget,
    requests: Semaphore,
    /// Cancelled when no orphan is looked for by its time any more. An upload that this process began earlier could be taken
    /// for an orphan.
    orphans_identified: CancellationToken,
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
    /// Set when the first part is sent.
    begun: OnceCell<(MultipartId, UploadRecord)>,
    parts: Mutex<BTreeMap<u16, Outcome>>,
    given_up: CancellationToken,
    /// Whether the upload is complete or aborted, so that nothing is left to abort.
    ended: AtomicBool,
}

/// How sending a part ended; `None` while it is being sent.
type Outcome = watch::Receiver<Option<Result<Part>>>;

impl MultipartUploads {
    /// Uploads with `memory` bytes for all their parts in flight. Aborts, in the background, the uploads that earlier
    /// processes left unfinished, according to the files in `dir`.
    ///
    /// # Errors
    /// Where `dir` cannot be read.
    pub async fn open(dir: PathBuf, memory: u64, stores: &Stores, shutdown: Shutdown) -> std::io::Result<Self> {
        let orphans = orphans::find(&dir).await?;
        let orphans_identified = CancellationToken::new();
        shutdown.spawn(orphans::abort(orphans, stores.clone(), orphans_identified.clone().drop_guard()));
        let memory = Budget::new(memory);
        let requests = Semaphore::new(REQUESTS);
        Ok(Self(Arc::new(Shared { dir, memory, requests, orphans_identified, shutdown })))
    }

    /// The memory that parts in flight take.
    #[must_use]
    pub fn memory(&self) -> &Budget {
        &self.0.memory
    }

    /// Prepares an upload. The store hears of it with the first part.
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
        let len = whole.body().len();
        let step = part_bytes(len);
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
    pub fn send(&self, number: u16, payload: Payload) {
        let (ended, outcome) = watch::channel(None);
        let earlier = self.0.parts().insert(number, outcome);
        let sending = Arc::clone(&self.0);
        self.0.shared.shutdown.spawn(async move {
            // The store keeps the version that arrives last, so that must be the one that was sent last.
            if let Some(mut earlier) = earlier {
                let _ = earlier.wait_for(Option::is_some).await;
            }
            ended.send_replace(Some(sending.store_part(number, payload).await));
        });
    }

    /// Waits until part `number` is stored.
    ///
    /// # Errors
    /// The store's; [`Error::Invalid`] for a part that was never sent.
    pub async fn sent(&self, number: u16) -> Result<Part> {
        let outcome = self.0.parts().get(&number).cloned();
        let mut outcome = outcome.ok_or_else(|| Error::Invalid(format!("part {number} of {} was not sent", self.0.key)))?;
        // The sender is dropped without an outcome only where the process stops.
        let settled = outcome.wait_for(Option::is_some).await.map_err(|_| cut_off(&self.0.key))?;
        settled.clone().unwrap_or_else(|| Err(cut_off(&self.0.key)))
    }

    /// Waits for the parts `numbers`, which are in ascending order, and joins them to the object.
    ///
    /// # Errors
    /// The store's, where a part could not be stored or the parts could not be joined. A part that failed may be sent
    /// again, and then this call may be made again.
    pub async fn finish(&self, numbers: impl IntoIterator<Item = u16, IntoIter: Send> + Send, condition: Condition) -> Result<ETag> {
        let mut parts = Vec::new();
        for number in numbers {
            parts.push(self.sent(number).await?);
        }
        let (id, record) = self.0.begun.get().ok_or_else(|| Error::Invalid(format!("parts of {}: want at least one", self.0.key)))?;
        let etag = self.0.store.complete_multipart(&self.0.key, id, &parts, condition).await?;
        self.0.ended.store(true, Ordering::Relaxed);
        record.remove();
        Ok(etag)
    }

    /// Aborts the upload, and waits until the store has dropped its parts.
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

    async fn store_part(&self, number: u16, payload: Payload) -> Result<Part> {
        if self.given_up.is_cancelled() {
            return Err(cut_off(&self.key));
        }
        // This call is never cut off: otherwise nobody would know of an upload that the store has begun.
        let (id, _) = self.begun.get_or_try_init(|| self.begin()).await?;
        let put = async {
            let _permit = self.shared.requests.acquire().await.map_err(|_| cut_off(&self.key))?;
            let payload = self.read(payload).await?;
            self.store.put_part(&self.key, id, number, payload.body().clone()).await
        };
        tokio::select! {
            stored = put => stored,
            () = self.given_up.cancelled() => Err(cut_off(&self.key)),
        }
    }

    async fn begin(&self) -> Result<(MultipartId, UploadRecord)> {
        self.shared.orphans_identified.cancelled().await;
        let failed = |error| Error::Internal { message: "cannot write to the spool".to_owned(), source: Some(Arc::new(error)) };
        let mut record = UploadRecord::write(&self.shared.dir, &self.bucket, &self.key).await.map_err(failed)?;
        let id = match self.store.begin_multipart(&self.key).await {
            Ok(id) => id,
            Err(error) => {
                record.remove();
                return Err(error);
            }
        };
        if let Err(error) = record.set_id(&id).await {
            if self.abort_in_store(&id).await {
                record.remove();
            }
            return Err(failed(error));
        }
        Ok((id, record))
    }

    /// Reads a part that is in a file into memory, where there is memory for it.
    async fn read(&self, payload: Payload) -> Result<Payload> {
        let Body::File { path, offset, len } = payload.body().clone() else { return Ok(payload) };
        if len > SINGLE_PUT_BYTES {
            return Ok(payload);
        }
        let Some(hold) = self.shared.memory.hold(len, PATIENCE).await else { return Ok(payload) };
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
        // A part that reaches the store after the abort would stay there.
        let outcomes: Vec<Outcome> = self.parts().values().cloned().collect();
        for mut outcome in outcomes {
            let _ = outcome.wait_for(Option::is_some).await;
        }
        if let Some((id, record)) = self.begun.get()
            && self.abort_in_store(id).await
        {
            record.remove();
        }
    }

    async fn abort_in_store(&self, id: &MultipartId) -> bool {
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
