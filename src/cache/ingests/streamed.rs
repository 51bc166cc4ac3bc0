//! A blob of a build's session on its way into a store that takes parts.
//!
//! Nobody takes such an ingest up again, so its parts need not be on disk: they go from memory into the
//! store while more arrives. The spool takes those for which there is no memory.

use std::future::pending;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::{mpsc, oneshot};

use crate::cache::write::receive::{check_content, check_digest, too_many};
use crate::cache::{BlobInfo, Cache, Condition, Error, Result, layout};
use crate::transfer::{SINGLE_PUT_BYTES, Upload, part_bytes};
use crate::types::{Digest, Grant, Hasher, Right, Sums};

/// Messages that arrived and wait to be hashed; a message has a MiB.
const MESSAGES_AHEAD: usize = 2;

/// The blob while it arrives. Dropped, it is given up, and the store forgets its parts.
#[derive(Debug)]
pub(in crate::cache) struct Streamed {
    /// What it is stored as.
    digest: Digest,
    messages: mpsc::Sender<Bytes>,
    arrived: oneshot::Receiver<Result<Arrived>>,
}

/// All of it.
#[derive(Debug)]
struct Arrived {
    sums: Sums,
    len: u64,
    upload: Upload,
    parts: u16,
}

impl Cache {
    /// Begins to take a blob of `total` bytes; `None` where its store does not gain by parts, or the blob is
    /// small or of unknown size.
    pub(in crate::cache) fn begin_streamed(&self, grant: &Grant, digest: &Digest, total: u64) -> Result<Option<Streamed>> {
        let (store, scope) = (self.store(grant)?, grant.scope());
        if total <= SINGLE_PUT_BYTES || !store.prefers_multipart() || grant.check_blob(Right::Write, digest).is_err() {
            return Ok(None);
        }
        let upload = self.0.transfers.begin(store, scope.bucket().clone(), layout::blob_key(scope, digest));
        let (messages, incoming) = mpsc::channel(MESSAGES_AHEAD);
        let (ended, arrived) = oneshot::channel();
        let (cache, what) = (self.clone(), format!("blob {digest}"));
        self.0.shutdown.spawn(async move {
            // Nobody waits for it any more where this fails.
            let _ = ended.send(cache.take_parts(&what, total, upload, Messages { incoming, rest: Bytes::new() }).await);
        });
        Ok(Some(Streamed { digest: *digest, messages, arrived }))
    }

    async fn take_parts(&self, what: &str, total: u64, upload: Upload, mut messages: Messages) -> Result<Arrived> {
        let (step, mut hasher, mut len, mut parts) = (part_bytes(total), Hasher::default(), 0, 0);
        while len < total {
            let size = step.min(total - len);
            let piece = self
                .receive(what, size, &mut Part { messages: &mut messages, left: size }, pending(), |bytes| hasher.update(bytes))
                .await?;
            parts += 1;
            len += size;
            upload.send(parts, piece);
        }
        if !messages.rest.is_empty() || messages.incoming.recv().await.is_some() {
            return Err(too_many(what, total));
        }
        Ok(Arrived { sums: hasher.finish(), len, upload, parts })
    }
}

impl Streamed {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// Why no more are taken.
    pub(in crate::cache) async fn write(&mut self, data: Bytes) -> Result<()> {
        match self.messages.send(data).await {
            Ok(()) => Ok(()),
            Err(_) => Err((&mut self.arrived).await.map_or_else(|_| stopped(), |ended| ended.err().unwrap_or_else(stopped))),
        }
    }

    /// Makes it visible, if it is the blob `digest`.
    ///
    /// # Errors
    /// [`Error::Precondition`] where it is another one, [`Error::Exhausted`] with the spool full, or the
    /// store's. Nothing is visible then.
    pub(in crate::cache) async fn publish(self, cache: &Cache, grant: &Grant, digest: &Digest, size: u64) -> Result<BlobInfo> {
        let Self { digest: begun, messages, arrived } = self;
        check_digest(digest, &begun)?;
        drop(messages);
        let Arrived { sums, len, upload, parts } = arrived.await.map_err(|_| stopped())??;
        check_content(digest, size, &sums.digest, len)?;
        match upload.finish(1..=parts, Condition::None).await {
            Ok(etag) => Ok(cache.blob_written(grant, &sums, len, etag)),
            Err(error) => {
                upload.abort().await;
                Err(error.into())
            }
        }
    }
}

fn stopped() -> Error {
    Error::Unavailable("remora stops".to_owned())
}

/// What has arrived and is not taken.
struct Messages {
    incoming: mpsc::Receiver<Bytes>,
    /// Of the message that the last part ended in.
    rest: Bytes,
}

/// The bytes of one part.
struct Part<'a> {
    messages: &'a mut Messages,
    left: u64,
}

impl Stream for Part<'_> {
    type Item = Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        if self.messages.rest.is_empty() {
            match std::task::ready!(self.messages.incoming.poll_recv(context)) {
                Some(message) => self.messages.rest = message,
                None => return Poll::Ready(None),
            }
        }
        let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.messages.rest.len());
        self.left -= taken as u64;
        Poll::Ready(Some(Ok(self.messages.rest.split_to(taken))))
    }
}
