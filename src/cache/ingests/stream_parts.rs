//! Early parts from memory: a blob of a build's session on its way into a store that takes parts.
//!
//! Nobody takes such an ingest up again, so its bytes need not be on disk: they go from memory into the store while more
//! arrives. The spool takes those for which there is no memory.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::Stream;
use tokio::sync::{mpsc, oneshot};

use super::early_parts::EarlyParts;
use crate::cache::write::Writes;
use crate::cache::write::receive::{check_content, check_digest, too_many};
use crate::cache::{BlobInfo, Error, Result};
use crate::shutdown::Shutdown;
use crate::transfer::SINGLE_PUT_BYTES;
use crate::types::{Digest, Grant, Hasher, Sums};

/// Messages that have arrived and wait to be hashed; a message has a MiB.
const MAX_WAITING: usize = 2;

/// A blob while it arrives. When this is dropped the blob is given up, and the store forgets its parts.
#[derive(Debug)]
pub(super) struct StreamParts {
    /// The blob that was announced.
    digest: Digest,
    messages: mpsc::Sender<Bytes>,
    arrived: oneshot::Receiver<Result<Arrived>>,
}

/// A blob that has arrived.
#[derive(Debug)]
struct Arrived {
    sums: Sums,
    len: u64,
    parts: EarlyParts,
}

impl StreamParts {
    /// Begins to take a blob of `total` bytes. `None`: its store takes it as fast in one request, or it is small or of
    /// unknown size.
    pub(super) fn begin(writes: &Arc<Writes>, shutdown: &Shutdown, grant: &Grant, digest: &Digest, total: u64) -> Result<Option<Self>> {
        if total <= SINGLE_PUT_BYTES {
            return Ok(None);
        }
        let Some(parts) = EarlyParts::begin(writes, grant, digest, total)? else { return Ok(None) };
        let (messages, incoming) = mpsc::channel(MAX_WAITING);
        let (ended, arrived) = oneshot::channel();
        let writes = Arc::clone(writes);
        let what = format!("blob {digest}");
        shutdown.spawn(async move {
            let taken = take(&writes, &what, total, parts, Messages { incoming, unread: Bytes::new() }).await;
            // Where this fails, nobody waits for it any more.
            let _ = ended.send(taken);
        });
        Ok(Some(Self { digest: *digest, messages, arrived }))
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// Why no more are taken.
    pub(super) async fn write(&mut self, data: Bytes) -> Result<()> {
        match self.messages.send(data).await {
            Ok(()) => Ok(()),
            Err(_) => Err((&mut self.arrived).await.map_or_else(|_| stopped(), |ended| ended.err().unwrap_or_else(stopped))),
        }
    }

    /// Makes the bytes visible, if they are the blob `digest`.
    ///
    /// # Errors
    /// [`Error::Precondition`] where they are another one, [`Error::Exhausted`] with the spool full, or the store's. Nothing
    /// is visible then.
    pub(super) async fn publish(self, writes: &Writes, grant: &Grant, digest: &Digest, size: u64) -> Result<BlobInfo> {
        let Self { digest: announced, messages, arrived } = self;
        check_digest(digest, &announced)?;
        // This ends the stream of messages.
        drop(messages);
        let Arrived { sums, len, parts } = arrived.await.map_err(|_| stopped())??;
        check_content(digest, size, &sums.digest, len)?;
        parts.finish(writes, grant, &sums, len).await
    }
}

/// Cuts the messages into parts and sends them.
async fn take(writes: &Writes, what: &str, total: u64, mut parts: EarlyParts, mut messages: Messages) -> Result<Arrived> {
    let mut hasher = Hasher::default();
    let mut len = 0;
    while len < total {
        let size = parts.part_bytes().min(total - len);
        let mut part = Part { messages: &mut messages, left: size };
        let payload = writes.intake().receive(what, size, &mut part, pending(), |bytes| hasher.update(bytes)).await?;
        len += size;
        parts.send(payload);
    }
    if !messages.unread.is_empty() || messages.incoming.recv().await.is_some() {
        return Err(too_many(what, total));
    }
    Ok(Arrived { sums: hasher.finish(), len, parts })
}

fn stopped() -> Error {
    Error::Unavailable("remora stops".to_owned())
}

/// Bytes that have arrived and belong to no part yet.
struct Messages {
    incoming: mpsc::Receiver<Bytes>,
    /// What is left of the message that the last part ended in.
    unread: Bytes,
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
        if self.messages.unread.is_empty() {
            match std::task::ready!(self.messages.incoming.poll_recv(context)) {
                Some(message) => self.messages.unread = message,
                None => return Poll::Ready(None),
            }
        }
        let taken = usize::try_from(self.left).unwrap_or(usize::MAX).min(self.messages.unread.len());
        self.left -= taken as u64;
        Poll::Ready(Some(Ok(self.messages.unread.split_to(taken))))
    }
}
