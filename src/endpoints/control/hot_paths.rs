//! What of this endpoint costs CPU for each byte or each message, for `benches/hot_paths` to time it alone.
//!
//! It is compiled for that program only, with the feature `hot-paths`: the rooms behind it stay private.

use std::io;

use bytes::Bytes;
use http_body_util::Empty;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, sink};

use super::grpc::batched::{self, Batched};
use super::grpc::message::Messages;
use super::grpc::tunnel::{self, Tunnel};
use super::grpc::wire::{self, Edit, Malformed};
use super::session::oci::{self, OciForm};
use crate::cache::CacheConfig;

/// Sends `data` through a session's tunnel and takes it apart at the other end. As an HTTP/2 connection does, it
/// flushes after each frame of `frame` bytes. Returns how many bytes came.
///
/// # Errors
/// Those of the tunnel.
pub async fn tunnel(data: &[u8], frame: usize) -> io::Result<u64> {
    let (near, messages) = tunnel::writer(None);
    let (far, _) = tunnel::writer(None);
    let mut sending = Batched::new(Tunnel::new(Empty::<Bytes>::new(), near));
    let mut receiving = Tunnel::new(messages, far);
    let send = async {
        for chunk in data.chunks(frame) {
            sending.write_all(chunk).await?;
            sending.flush().await?;
        }
        sending.shutdown().await
    };
    let receive = async {
        let mut buffer = vec![0; frame];
        let mut received = 0;
        loop {
            match receiving.read(&mut buffer).await? {
                0 => return Ok(received),
                bytes => received += bytes as u64,
            }
        }
    };
    let ((), received) = tokio::try_join!(send, receive)?;
    Ok(received)
}

/// Writes `data` to a socket that takes everything, with a flush after each frame of `frame` bytes.
///
/// # Errors
/// None.
pub async fn batch(data: &[u8], frame: usize) -> io::Result<()> {
    let mut socket = batched::socket(tokio::io::join(tokio::io::empty(), sink()));
    for chunk in data.chunks(frame) {
        socket.write_all(chunk).await?;
        socket.flush().await?;
    }
    socket.shutdown().await
}

/// Finds the gRPC messages in a `stream` that comes in chunks of `chunk` bytes, and changes none. Returns
/// how many bytes it passed on.
#[must_use]
pub fn messages(stream: &[u8], chunk: usize) -> usize {
    let mut messages = Messages::default();
    stream.chunks(chunk).map(|chunk| messages.push(chunk, |_| None).len()).sum()
}

/// Gives the fields `number` of a protobuf message another payload; `None` where there is no such field, or
/// this is no message.
#[must_use]
pub fn patch(message: &[u8], number: u32, payload: &[u8]) -> Option<Vec<u8>> {
    let decide = |field: &wire::Field<'_>| Ok(if field.number == number { Edit::Replace(payload.to_vec()) } else { Edit::Keep });
    wire::edit::<Malformed>(message, decide).ok()?
}

/// The documents that a build imports a cache from; `None` where the cache has no such form.
#[must_use]
pub fn to_oci(config: CacheConfig) -> Option<Vec<Bytes>> {
    oci::documents(config).ok()
}

/// The cache that a build has exported as an image manifest and the `config` beside it; `None` where the two do
/// not belong together.
#[must_use]
pub fn from_oci(manifest: Bytes, config: Bytes) -> Option<CacheConfig> {
    OciForm { manifest, config }.into_config().ok()
}
