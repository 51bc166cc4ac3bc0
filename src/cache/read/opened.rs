//! The next layers of a build that imports over its session: asked for before it asks.
//!
//! BuildKit copies such layers one after the other, from the lowest up, so that each would wait for the first byte
//! of its own request to the store. While one is read the requests for those above it go out, up to the first fork,
//! behind which nothing says where the build goes. Small layers are read to their end, at most a few of them; of a
//! large one nobody takes anything before the build does, so that it holds a connection and none of the memory for
//! transfers. With a disk cache, that fetches ahead (`read_ahead`), and over HTTP BuildKit asks for many at once.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{TryStreamExt as _, stream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::cache::{BlobRead, Cache, Error, Result, layout};
use crate::metrics::Metrics;
use crate::store::GuardedStore;
use crate::types::{ByteRange, Digest, Grant, Scope};

/// Layers above the one that is read: enough for a round trip of 80 ms where a layer takes BuildKit 20 ms.
const AHEAD: usize = 4;
/// Of all builds. The oldest goes when one more comes.
const MAX_OPENED: usize = 64;
/// Layers up to this size, in bytes, are read to their end.
const SMALL: u64 = 256 << 10;
/// A build that has not come so far by then does not.
const KEPT: Duration = Duration::from_secs(20);

/// Reads that nobody has asked for yet.
#[derive(Debug, Default)]
pub(in crate::cache) struct Opened(Mutex<VecDeque<Begun>>);

/// Ends when dropped.
#[derive(Debug)]
struct Begun {
    /// Bucket and key.
    place: String,
    since: Instant,
    /// One, or none where it went wrong.
    read: mpsc::Receiver<BlobRead>,
    metrics: Metrics,
}

impl Opened {
    fn take(&self, place: &str) -> Option<Begun> {
        let mut all = self.fresh();
        let at = all.iter().position(|begun| begun.place == place)?;
        all.remove(at)
    }

    fn fresh(&self) -> MutexGuard<'_, VecDeque<Begun>> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        while all.front().is_some_and(|begun| begun.since.elapsed() >= KEPT) {
            all.pop_front();
        }
        all
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Ok(read) = self.read.try_recv()
            && read.info.size <= SMALL
        {
            self.metrics.read_ahead().wasted(read.info.size);
        }
    }
}

impl Cache {
    /// Reads a blob past the disk cache, and asks for those that the build will read next.
    pub(in crate::cache) async fn read_in_turn(&self, grant: &Grant, digest: &Digest, range: Option<ByteRange>) -> Result<BlobRead> {
        let (store, scope) = (self.store(grant)?, grant.scope());
        if grant.documents().is_some() && range.is_none() && self.0.disk.is_none() && store.prefers_multipart() {
            let begun = self.0.opened.take(&layout::blob_place(scope, digest));
            self.open_next(grant, &store, digest);
            // What went wrong for nobody is tried again, and goes wrong for the build.
            if let Some(mut begun) = begun
                && let Some(read) = begun.read.recv().await
            {
                return Ok(read);
            }
        }
        self.read_from_bucket(scope, &store, digest, range).await
    }

    fn open_next(&self, grant: &Grant, store: &Arc<dyn GuardedStore>, digest: &Digest) {
        let mut all = self.0.opened.fresh();
        for next in self.above(grant, digest).into_iter().take(AHEAD) {
            let place = layout::blob_place(grant.scope(), &next);
            if all.iter().any(|begun| begun.place == place) {
                continue;
            }
            if !store.has_headroom() || self.0.shutdown.is_closing() {
                return;
            }
            let (sender, read) = mpsc::channel(1);
            self.0.shutdown.spawn(self.clone().open_ahead(grant.scope().clone(), Arc::clone(store), next, sender));
            if all.len() >= MAX_OPENED {
                all.pop_front();
            }
            all.push_back(Begun { place, since: Instant::now(), read, metrics: self.0.metrics.clone() });
        }
    }

    async fn open_ahead(self, scope: Scope, store: Arc<dyn GuardedStore>, digest: Digest, sender: mpsc::Sender<BlobRead>) {
        let opening = async {
            let read = self.read_from_bucket(&scope, &store, &digest, None).await?;
            if read.info.size > SMALL {
                return Ok::<_, Error>(read);
            }
            let bytes = read.body.try_collect::<Vec<_>>().await?.concat();
            self.0.metrics.read_ahead().fetched(read.info.size);
            Ok(BlobRead { body: Box::pin(stream::iter([Ok(bytes.into())])), ..read })
        };
        let kept = async {
            if let Ok(read) = opening.await
                && sender.send(read).await.is_ok()
            {
                tokio::time::sleep(KEPT).await;
                drop(self.0.opened.fresh());
            }
        };
        tokio::select! {
            () = kept => {}
            // It was taken, or had to make room.
            () = sender.closed() => {}
            () = self.0.shutdown.closing() => {}
        }
    }
}
