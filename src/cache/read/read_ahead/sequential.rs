//! Read-ahead without a disk cache, for a build that imports over its session.
//!
//! BuildKit copies such layers one after the other, from the lowest up, so that each would wait for the first byte of its
//! own request to the store. While one is read, the requests for those above it go out. Small layers are read to their
//! end, at most a few of them. Of a large one nothing is read before the build asks, so that it holds a connection and none
//! of the memory for transfers.

use futures_util::{TryStreamExt as _, stream};
use tokio::sync::mpsc;

use super::chains::Predictions;
use crate::cache::read::bucket::{BlobSource, BucketReads};
use crate::cache::read::kept::KeptReads;
use crate::cache::{BlobRead, Error, Result};
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::types::Grant;

/// Layers above the one that is read: enough for a round trip of 80 ms where a layer takes BuildKit 20 ms.
const LAYERS_AHEAD: usize = 4;
/// Layers up to this size, in bytes, are read to their end.
const SMALL: u64 = 256 << 10;

/// Begins the reads that a build will ask for next.
#[derive(Debug)]
pub(in crate::cache::read) struct Sequential {
    bucket: BucketReads,
    predictions: Predictions,
    /// Reads that nobody has asked for yet, by the bucket and the key of the blob.
    begun: KeptReads<String, Begun>,
    metrics: Metrics,
    shutdown: Shutdown,
}

/// A read that ends when this is dropped.
#[derive(Debug)]
struct Begun {
    /// Brings the read, or nothing where it failed.
    read: mpsc::Receiver<BlobRead>,
    metrics: Metrics,
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

impl Sequential {
    pub(in crate::cache::read) fn new(bucket: BucketReads, predictions: Predictions, metrics: Metrics, shutdown: Shutdown) -> Self {
        let begun = KeptReads::new(shutdown.clone());
        Self { bucket, predictions, begun, metrics, shutdown }
    }

    /// Reads a whole blob, and begins the reads that the build will ask for next.
    pub(in crate::cache::read) async fn read(&self, grant: &Grant, source: &BlobSource) -> Result<BlobRead> {
        let begun = self.begun.take(&source.place());
        self.begin_next(grant, source);
        // A read that failed before the build asked is tried again, and only that second failure is the build's.
        if let Some(mut begun) = begun
            && let Some(read) = begun.read.recv().await
        {
            return Ok(read);
        }
        self.bucket.read(source, None).await
    }

    fn begin_next(&self, grant: &Grant, read: &BlobSource) {
        let Some(chains) = self.predictions.of(grant) else { return };
        for (digest, _) in chains.above(&read.digest).take(LAYERS_AHEAD) {
            let next = BlobSource { digest, ..read.clone() };
            let place = next.place();
            if self.begun.contains(&place) {
                continue;
            }
            if !next.store.has_headroom() || self.shutdown.is_closing() {
                return;
            }
            // Another build may have begun it since.
            self.begun.put_new(place, || {
                let (sender, read) = mpsc::channel(1);
                self.shutdown.spawn(begin(self.bucket.clone(), next, sender, self.metrics.clone(), self.shutdown.clone()));
                Begun { read, metrics: self.metrics.clone() }
            });
        }
    }
}

/// Begins a read, and goes to its end where the blob is small.
async fn begin(bucket: BucketReads, source: BlobSource, sender: mpsc::Sender<BlobRead>, metrics: Metrics, shutdown: Shutdown) {
    let opening = async {
        let read = bucket.read(&source, None).await?;
        if read.info.size > SMALL {
            return Ok::<_, Error>(read);
        }
        let bytes = read.body.try_collect::<Vec<_>>().await?.concat();
        metrics.read_ahead().fetched(read.info.size);
        Ok(BlobRead { body: Box::pin(stream::iter([Ok(bytes.into())])), ..read })
    };
    tokio::select! {
        read = opening => if let Ok(read) = read {
            // Where it was given up meanwhile, there is nobody to tell.
            let _ = sender.send(read).await;
        },
        () = sender.closed() => {}
        () = shutdown.closing() => {}
    }
}
