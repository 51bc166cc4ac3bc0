//! The answer stream of Read: a blob's bytes in messages of at most 1 MiB.
//!
//! containerd's client makes a Read call of about a MiB for every `ReadAt`, one after the other (`core/content/proxy`, v2.4).
//! To the store each would be a request of its own. So a read that stops before its blob does is kept: the next call goes on
//! where the last one stopped, and what the store sends meanwhile is there already.

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};
use tonic::Status;

use super::calls::{Call, Calls, bytes};
use super::kept_read::{KeptRead, Stop};
use super::status::from_error;
use crate::cache::{Cache, Error, KeptReads, Outgoing, Result};
use crate::proto::content::ReadContentResponse;
use crate::types::{Digest, Grant, RangeSpec, Right};

/// Below every client's bound (4 MiB unless set), large enough that the cost of a message does not count.
const MESSAGE_BYTES: usize = 1 << 20;
/// Chunks from this size on go as they are, which costs less than to gather them; smaller ones are gathered.
const CHUNK_BYTES: usize = 64 << 10;

/// The bytes of a blob from `offset` on, `size` of them or as many as there are; 0: all.
///
/// # Errors
/// Those of [`Blobs::read`](crate::cache::Blobs::read). A read from just behind the last byte is empty and no error, as in
/// containerd.
pub(super) async fn open(calls: &Calls, grant: &Grant, digest: &Digest, offset: u64, size: u64) -> Result<Part> {
    let left = if size == 0 { u64::MAX } else { size };
    let stop = Stop { scope: grant.scope().clone(), digest: *digest, offset };
    let keep = (size > 0).then(|| calls.kept().clone());
    if let Some(read) = calls.kept().take(&stop) {
        // The grant need not be the one that the read was begun with.
        grant.check_blob(Right::Read, digest)?;
        return Ok(Part { read, stop, left, gathered: BytesMut::new(), keep });
    }
    let body = open_at(calls.cache(), grant, digest, offset).await?;
    let read = KeptRead { ready: Bytes::new(), unread: Box::pin(body.fuse()) };
    Ok(Part { read, stop, left, gathered: BytesMut::new(), keep })
}

/// A blob to its end: a read that stops before it is kept for the next one.
async fn open_at(cache: &Cache, grant: &Grant, digest: &Digest, offset: u64) -> Result<Outgoing> {
    let at_end = |size: u64| {
        if offset == size {
            Ok(stream::empty().boxed())
        } else {
            Err(Error::OutOfRange(format!("read at {offset}; blob {digest} has {size} bytes")))
        }
    };
    // BuildKit asks for what is behind the last byte of every blob.
    if offset > 0
        && let Some(size) = cache.blobs().remembered_size(grant, digest)?.filter(|size| offset >= *size)
    {
        return at_end(size);
    }
    // Offsets beyond what an i64 holds exist in no store.
    let read = match RangeSpec::From(offset).to_byte_range() {
        _ if offset == 0 => cache.blobs().read_promised(grant, digest, None).await,
        Some(range) => cache.blobs().read_promised(grant, digest, Some(range)).await,
        None => Err(Error::OutOfRange(String::new())),
    };
    match read {
        Ok(read) => Ok(read.body),
        Err(Error::OutOfRange(_)) => at_end(cache.blobs().stat(grant, digest).await?.size),
        Err(error) => Err(error),
    }
}

/// The part of a blob that one call asks for.
pub(super) struct Part {
    read: KeptRead,
    /// Where the read has stopped.
    stop: Stop,
    /// Bytes that are still to be sent.
    left: u64,
    /// Small chunks that wait for more.
    gathered: BytesMut,
    /// Where the read is kept when the part is sent and the blob is not at its end.
    keep: Option<KeptReads<Stop, KeptRead>>,
}

pub(super) fn messages(part: Part, call: Call) -> impl Stream<Item = Result<ReadContentResponse, Status>> + Send {
    stream::try_unfold((Some(part), call), |(part, mut call)| async move {
        let Some(part) = part else { return Ok(None) };
        match part.next().await {
            Ok((None, _)) => Ok(None),
            Ok((Some(message), next)) => {
                call.sent(message.data.len());
                Ok(Some((message, (next, call))))
            }
            Err(error) => {
                let status = from_error(&error);
                call.failed(&status);
                Err(status)
            }
        }
    })
}

impl Part {
    /// The next message, and the part behind it. The read is kept before its last message goes out: the client's next call may
    /// be here before this one is seen to end.
    async fn next(mut self) -> Result<(Option<ReadContentResponse>, Option<Self>)> {
        if self.left == 0 {
            return Ok((None, None));
        }
        let wanted = usize::try_from(self.left).unwrap_or(usize::MAX).min(MESSAGE_BYTES);
        while self.read.ready.is_empty() {
            match self.read.unread.next().await.transpose()? {
                Some(chunk) if self.gathered.is_empty() && chunk.len() >= CHUNK_BYTES.min(wanted) => self.read.ready = chunk,
                Some(chunk) => {
                    if self.gathered.is_empty() {
                        self.gathered.reserve(wanted.saturating_add(CHUNK_BYTES));
                    }
                    self.gathered.extend_from_slice(&chunk);
                    if self.gathered.len() >= wanted {
                        self.read.ready = self.gathered.split().freeze();
                    }
                }
                None if self.gathered.is_empty() => return Ok((None, None)),
                None => self.read.ready = self.gathered.split().freeze(),
            }
        }
        let data = self.read.ready.split_to(self.read.ready.len().min(wanted));
        let message = ReadContentResponse { offset: bytes(self.stop.offset), data };
        let sent = message.data.len() as u64;
        self.stop.offset += sent;
        self.left -= sent;
        match self.keep.take() {
            Some(keep) if self.left == 0 => {
                keep.put(self.stop, self.read);
                Ok((Some(message), None))
            }
            keep => {
                self.keep = keep;
                Ok((Some(message), Some(self)))
            }
        }
    }
}
