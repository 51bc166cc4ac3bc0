//! The answer stream of Read: a blob's bytes in messages of at most 1 MiB.

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _, stream};
use tonic::Status;

use super::calls::{Call, bytes};
use super::status::from_error;
use crate::cache::{Cache, Error, Outgoing, Result};
use crate::proto::content::ReadContentResponse;
use crate::types::{ByteRange, Digest, Grant};

/// Below every client's bound (4 MiB unless set), large enough that the cost of a message does not count.
const MESSAGE_BYTES: usize = 1 << 20;
/// Pieces from this size on go as they are; smaller ones are gathered.
const PIECE_BYTES: usize = MESSAGE_BYTES / 4;

/// The bytes of a blob from `offset` on, `size` of them or as many as there are; 0: all.
///
/// # Errors
/// As [`Cache::read_blob`]. A read from just behind the last byte is empty, not an error, as in containerd.
pub(super) async fn open(cache: &Cache, grant: &Grant, digest: &Digest, offset: u64, size: u64) -> Result<Outgoing> {
    // Offsets beyond what an i64 holds exist in no store.
    let end = if size == 0 { i64::MAX.cast_unsigned() } else { offset.saturating_add(size) };
    let read = match ByteRange::new(offset, end) {
        _ if offset == 0 && size == 0 => cache.read_blob(grant, digest, None).await,
        Some(range) => cache.read_blob(grant, digest, Some(range)).await,
        None => Err(Error::OutOfRange(String::new())),
    };
    match read {
        Ok(read) => Ok(read.body),
        Err(Error::OutOfRange(_)) => {
            let blob = cache.stat_blob(grant, digest).await?.size;
            if offset == blob {
                Ok(stream::empty().boxed())
            } else {
                Err(Error::OutOfRange(format!("read at {offset}; blob {digest} has {blob} bytes")))
            }
        }
        Err(error) => Err(error),
    }
}

/// A body cut and joined to messages.
struct Messages {
    body: Outgoing,
    offset: u64,
    /// Of what came, the part that is ready to go.
    ready: Bytes,
    /// Small pieces that wait for more.
    gathered: BytesMut,
    ended: bool,
    call: Call,
}

pub(super) fn messages(body: Outgoing, offset: u64, call: Call) -> impl Stream<Item = Result<ReadContentResponse, Status>> + Send {
    let messages = Messages { body, offset, ready: Bytes::new(), gathered: BytesMut::new(), ended: false, call };
    stream::try_unfold(messages, |mut messages| async move {
        match messages.next().await {
            Ok(message) => Ok(message.map(|message| (message, messages))),
            Err(error) => {
                let status = from_error(&error);
                messages.call.failed(&status);
                Err(status)
            }
        }
    })
}

impl Messages {
    async fn next(&mut self) -> Result<Option<ReadContentResponse>> {
        while self.ready.is_empty() {
            if self.ended {
                return Ok(None);
            }
            match self.body.next().await.transpose()? {
                Some(piece) if self.gathered.is_empty() && piece.len() >= PIECE_BYTES => self.ready = piece,
                Some(piece) => {
                    self.gathered.extend_from_slice(&piece);
                    if self.gathered.len() >= MESSAGE_BYTES {
                        self.ready = self.gathered.split().freeze();
                    }
                }
                None => {
                    self.ended = true;
                    self.ready = self.gathered.split().freeze();
                }
            }
        }
        let data = self.ready.split_to(self.ready.len().min(MESSAGE_BYTES));
        let message = ReadContentResponse { offset: bytes(self.offset), data };
        self.offset += message.data.len() as u64;
        self.call.sent(message.data.len());
        Ok(Some(message))
    }
}
