//! Blobs that a writer need not send: found without a call of the store where that can be, and kept young
//! for lifecycle rules off the build's path.

use std::collections::HashSet;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{StreamExt, stream};
use time::OffsetDateTime;
use tokio::sync::mpsc;

use crate::cache::{BlobInfo, Cache, Result, layout};
use crate::shutdown::Shutdown;
use crate::types::{Digest, Grant, Right, Scope};

/// BuildKit's default `touch_refresh`: it copies an older blob onto itself, so that the bucket's
/// lifecycle rules leave alone what is in use.
const TOUCH_AFTER: Duration = Duration::from_hours(24);
/// Touches that may wait. One that finds no room is made up for by the next build.
const MAX_WAITING: usize = 1 << 14;
/// Touches in flight.
const TOUCHES_AT_ONCE: usize = 8;

/// Touches that wait for their turn.
#[derive(Debug)]
pub(in crate::cache) struct Touches {
    queue: mpsc::Sender<(Grant, Digest)>,
    /// Until somebody works on it.
    waiting: Mutex<Option<mpsc::Receiver<(Grant, Digest)>>>,
    /// The blobs of those that wait or are under way.
    places: Mutex<HashSet<String>>,
}

impl Touches {
    /// Whether a blob is to be touched, or just being touched.
    pub(in crate::cache) fn is_waiting(&self, scope: &Scope, digest: &Digest) -> bool {
        self.places().contains(&layout::blob_place(scope, digest))
    }

    fn places(&self) -> MutexGuard<'_, HashSet<String>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Touches {
    fn default() -> Self {
        let (queue, waiting) = mpsc::channel(MAX_WAITING);
        Self { queue, waiting: Mutex::new(Some(waiting)), places: Mutex::default() }
    }
}

impl Cache {
    /// Looks up a blob that its caller would write otherwise. One that is old is made young, later, and
    /// passes for young from now on.
    ///
    /// # Errors
    /// As [`Cache::stat_blob`].
    pub async fn find_to_reuse(&self, grant: &Grant, digest: &Digest) -> Result<BlobInfo> {
        if let Some(losses) = grant.losses() {
            losses.promises().begin_export();
        }
        if let Some(found) = self.find_in_journal(grant, digest) {
            return Ok(found);
        }
        let found = self.stat_blob(grant, digest).await;
        let found = self.or_guessed(grant, digest, found)?;
        if OffsetDateTime::now_utc() - found.modified > TOUCH_AFTER { self.touch_later(grant, found) } else { Ok(found) }
    }

    /// Makes a blob young again for lifecycle rules; a build does not wait for it. `None`: it stays as it is,
    /// which is bearable for a build whose store fails.
    ///
    /// # Errors
    /// As [`Cache::touch_blob`].
    pub async fn keep_young(&self, grant: &Grant, digest: &Digest) -> Result<Option<BlobInfo>> {
        let touched = if grant.names().is_some() {
            self.stat_blob(grant, digest).await.and_then(|found| self.touch_later(grant, found))
        } else {
            self.touch_blob(grant, digest).await
        };
        match touched {
            Err(error) if error.is_outage() && grant.losses().is_some() => Ok(None),
            touched => touched.map(Some),
        }
    }

    /// Makes a blob young in the background; the answer says that it is.
    ///
    /// # Errors
    /// [`Error::Denied`](crate::cache::Error::Denied).
    pub fn touch_later(&self, grant: &Grant, blob: BlobInfo) -> Result<BlobInfo> {
        grant.check_blob(Right::Write, &blob.digest)?;
        let place = layout::blob_place(grant.scope(), &blob.digest);
        let is_new = self.0.touches.places().insert(place.clone());
        if self.0.touches.queue.try_send((grant.clone(), blob.digest)).is_err() {
            if is_new {
                self.0.touches.places().remove(&place);
            }
            self.0.metrics.touch_dropped();
        }
        let modified = OffsetDateTime::now_utc();
        self.0.known.record_touched(grant.scope(), &blob.digest, modified);
        Ok(BlobInfo { modified, ..blob })
    }

    /// Does the touches that were left for later, until the process begins to end.
    pub async fn touch_in_background(self, shutdown: Shutdown) {
        let waiting = self.0.touches.waiting.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(mut waiting) = waiting else { return };
        loop {
            let mut batch = Vec::new();
            tokio::select! {
                () = shutdown.closing() => return,
                received = waiting.recv_many(&mut batch, TOUCHES_AT_ONCE) => if received == 0 { return },
            }
            stream::iter(batch).for_each_concurrent(TOUCHES_AT_ONCE, |(grant, digest)| self.touch_now(grant, digest)).await;
        }
    }

    async fn touch_now(&self, grant: Grant, digest: Digest) {
        let touched = match self.store(&grant) {
            Ok(store) => self.touch_stored(grant.scope(), store.as_ref(), &digest).await,
            Err(_) => return,
        };
        self.0.touches.places().remove(&layout::blob_place(grant.scope(), &digest));
        match touched {
            Ok(_) => self.0.metrics.touched(),
            Err(error) => {
                // Perhaps it is gone: whoever asks next asks the store.
                self.0.known.record_absent(grant.scope(), &digest);
                tracing::warn!(blob.digest = %digest, %error, "could not make blob {digest} young: {error}");
            }
        }
    }
}
