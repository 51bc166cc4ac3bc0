//! Touches: blobs that are in use are made young, so that the bucket's lifecycle rules leave them alone.
//!
//! A build does not wait for that: touches are queued, and done in the background (`background`).

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use time::OffsetDateTime;
use tokio::sync::mpsc;

use crate::cache::known::Known;
use crate::cache::{BlobInfo, Result, layout};
use crate::metrics::Metrics;
use crate::store::{self, Meta, Store, Stores};
use crate::types::{Digest, ETag, Grant, Right, Scope};

/// Touches that may wait. One that finds no room is made up for by the next build.
const MAX_WAITING: usize = 1 << 14;

/// Touches blobs, now or later.
#[derive(Debug)]
pub(in crate::cache) struct Touches {
    stores: Arc<Stores>,
    known: Known,
    queue: mpsc::Sender<Touch>,
    /// The other end of the queue, until somebody works on it.
    waiting: Mutex<Option<mpsc::Receiver<Touch>>>,
    /// The blobs whose touches wait or are under way.
    places: Mutex<HashSet<String>>,
    metrics: Metrics,
}

/// A touch that waits.
#[derive(Debug)]
pub(in crate::cache) struct Touch {
    grant: Grant,
    digest: Digest,
}

impl Touches {
    pub(super) fn new(stores: Arc<Stores>, known: Known, metrics: Metrics) -> Self {
        let (queue, waiting) = mpsc::channel(MAX_WAITING);
        Self { stores, known, queue, waiting: Mutex::new(Some(waiting)), places: Mutex::default(), metrics }
    }

    /// Touches a blob in the background. The answer says that it is young already.
    ///
    /// # Errors
    /// [`Error::Denied`](crate::cache::Error::Denied).
    pub(in crate::cache) fn later(&self, grant: &Grant, blob: BlobInfo) -> Result<BlobInfo> {
        grant.check_blob(Right::Write, &blob.digest)?;
        let place = layout::blob_place(grant.scope(), &blob.digest);
        let is_new = self.places().insert(place.clone());
        if self.queue.try_send(Touch { grant: grant.clone(), digest: blob.digest }).is_err() {
            if is_new {
                self.places().remove(&place);
            }
            self.metrics.touch_dropped();
        }
        let modified = OffsetDateTime::now_utc();
        self.known.record_touched(grant.scope(), &blob.digest, modified);
        Ok(BlobInfo { modified, ..blob })
    }

    /// Whether a touch of this blob waits or is under way.
    pub(in crate::cache) fn is_waiting(&self, scope: &Scope, digest: &Digest) -> bool {
        self.places().contains(&layout::blob_place(scope, digest))
    }

    /// The touches that wait, for the one task that does them.
    pub(in crate::cache) fn take_waiting(&self) -> Option<mpsc::Receiver<Touch>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Does a touch that waited.
    pub(in crate::cache) async fn run(&self, touch: Touch) {
        let Touch { grant, digest } = touch;
        let touched = match self.stores.store(grant.scope()) {
            Ok(store) => self.touch(grant.scope(), store.as_ref(), &digest).await,
            Err(_) => return,
        };
        self.places().remove(&layout::blob_place(grant.scope(), &digest));
        match touched {
            Ok(_) => self.metrics.touched(),
            Err(error) => {
                // The blob may be gone: whoever asks next asks the store.
                self.known.record_absent(grant.scope(), &digest);
                tracing::warn!(blob.digest = %digest, %error, "could not make blob {digest} young: {error}");
            }
        }
    }

    /// Makes a blob young in the store. That may change its ETag: where the old version was trusted, the object is looked
    /// up again, so that the trust carries over, and what the lookup said is returned.
    pub(super) async fn touch(&self, scope: &Scope, store: &dyn Store, digest: &Digest) -> store::Result<Option<Meta>> {
        let key = layout::blob_key(scope, digest);
        let trust = |etag: &ETag| self.known.trust(scope, digest, etag);
        let is_known = self.known.last(scope, digest).is_some_and(|seen| trust(&seen.etag).is_some());
        let known = if is_known { trust(&store.head(&key).await?.etag) } else { None };
        store.touch(&key).await?;
        let Some(trust) = known else { return Ok(None) };
        let touched = store.head(&key).await?;
        self.known.record_trust(scope, digest, &touched.etag, trust);
        self.known.record_present(scope, digest, touched.clone());
        Ok(Some(touched))
    }

    fn places(&self) -> MutexGuard<'_, HashSet<String>> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
