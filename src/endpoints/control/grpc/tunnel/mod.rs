//! The byte stream inside a `Control/Session` call.
//!
//! Each side sends `BytesMessage`s, gRPC messages with one field of bytes; joined, they are a connection
//! of their own, on which buildkitd is the HTTP/2 client and the build's client the server
//! (`session/grpchijack`, BuildKit v0.33). A [`Tunnel`] is that connection.

mod decoder;

use std::collections::VecDeque;
use std::convert::Infallible;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;

use decoder::Decoder;

/// Data of one message that remora sends. buildkitd's own messages have 32 KiB: fewer and larger ones cost both sides
/// less.
const MESSAGE_BYTES: usize = 256 << 10;
/// Messages between a tunnel and the connection that carries it: so many wait for a slow peer.
const QUEUED_MESSAGES: usize = 2;
/// Messages whose memory is used again: those in the queue, the one that is being sent, and the next.
const REUSED_MESSAGES: usize = QUEUED_MESSAGES + 2;
/// gRPC's prefix (one byte of flags, four of length), the field's tag, and its length as a varint that is
/// always four bytes long, so that it can be filled in when the message is full.
const HEADER_BYTES: usize = 10;

/// A session's byte stream.
#[derive(Debug)]
pub(crate) struct Tunnel<B> {
    incoming: B,
    decoder: Decoder,
    chunk: Bytes,
    message: BytesMut,
    /// The messages sent last. New memory for each would be the largest part of their cost.
    sent: VecDeque<Bytes>,
    outgoing: PollSender<Bytes>,
}

/// The writing end of a tunnel whose reading end is not known yet.
#[derive(Debug)]
pub(crate) struct Writer(mpsc::Sender<Bytes>);

/// What a tunnel sends, as the body of a gRPC request or response. Ends with the trailers, if any.
#[derive(Debug)]
pub(crate) struct Outgoing {
    messages: mpsc::Receiver<Bytes>,
    trailers: Option<HeaderMap>,
}

/// A writing end, and the body that carries what is written. The body of a response needs trailers.
pub(crate) fn writer(trailers: Option<HeaderMap>) -> (Writer, Outgoing) {
    let (sender, messages) = mpsc::channel(QUEUED_MESSAGES);
    (Writer(sender), Outgoing { messages, trailers })
}

impl<B> Tunnel<B> {
    /// The byte stream that comes with `incoming` and leaves through `writer`.
    pub(crate) fn new(incoming: B, writer: Writer) -> Self {
        Self {
            incoming,
            decoder: Decoder::default(),
            chunk: Bytes::new(),
            message: BytesMut::new(),
            sent: VecDeque::with_capacity(REUSED_MESSAGES),
            outgoing: PollSender::new(writer.0),
        }
    }

    /// Sends the message as it is, if it has anything in it.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.message.len() > HEADER_BYTES {
            ready!(self.outgoing.poll_reserve(cx)).map_err(|_| closed())?;
            let message = seal(std::mem::take(&mut self.message));
            self.sent.push_back(message.clone());
            self.outgoing.send_item(message).map_err(|_| closed())?;
        }
        Poll::Ready(Ok(()))
    }

    /// Begins a message. Where the oldest one has been sent, its memory is used again.
    fn begin_message(&mut self) {
        if self.sent.len() >= REUSED_MESSAGES {
            self.message = self.sent.pop_front().and_then(|oldest| oldest.try_into_mut().ok()).unwrap_or_default();
            self.message.clear();
        }
        self.message.reserve(HEADER_BYTES + MESSAGE_BYTES);
        self.message.put_bytes(0, HEADER_BYTES);
    }
}

fn closed() -> io::Error {
    io::Error::new(io::ErrorKind::BrokenPipe, "the session's call has ended")
}

/// Fills in the header of a message whose data is complete.
fn seal(mut message: BytesMut) -> Bytes {
    let data = message.len() - HEADER_BYTES;
    // Messages are far below 2^28 bytes, so both lengths fit.
    let length = u32::try_from(data).unwrap_or(u32::MAX);
    let mut header = &mut message[..HEADER_BYTES];
    header.put_u8(0);
    header.put_u32(length + 5);
    header.put_u8(0x0a);
    for group in 0..4 {
        let more = if group < 3 { 0x80 } else { 0 };
        header.put_u8((length >> (7 * group)).to_le_bytes()[0] & 0x7f | more);
    }
    message.freeze()
}

impl<B> AsyncRead for Tunnel<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        loop {
            let data = this.decoder.next(&mut this.chunk)?;
            if !data.is_empty() {
                let taken = data.len().min(buf.remaining());
                buf.put_slice(&data[..taken]);
                this.decoder.put_back(data, taken);
                return Poll::Ready(Ok(()));
            }
            match ready!(Pin::new(&mut this.incoming).poll_frame(cx)) {
                Some(Ok(frame)) => this.chunk = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::new(io::ErrorKind::ConnectionReset, error))),
                None => return Poll::Ready(this.decoder.end()),
            }
        }
    }
}

impl<B: Unpin> AsyncWrite for Tunnel<B> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[io::IoSlice::new(buf)])
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.message.len() >= MESSAGE_BYTES {
            ready!(this.poll_send(cx))?;
        }
        if this.message.is_empty() {
            this.begin_message();
        }
        let mut written = 0;
        for buf in bufs {
            let room = (HEADER_BYTES + MESSAGE_BYTES).saturating_sub(this.message.len());
            let taken = buf.len().min(room);
            this.message.put_slice(&buf[..taken]);
            written += taken;
        }
        Poll::Ready(Ok(written))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_send(cx))?;
        this.outgoing.close();
        Poll::Ready(Ok(()))
    }
}

impl Body for Outgoing {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let this = self.get_mut();
        let frame = match ready!(this.messages.poll_recv(cx)) {
            Some(message) => Some(Frame::data(message)),
            None => this.trailers.take().map(Frame::trailers),
        };
        Poll::Ready(frame.map(Ok))
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt as _, StreamBody};
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    /// A message with the data, and with fields around it that no reader knows.
    fn message(data: &[u8], noise: bool) -> Vec<u8> {
        let mut fields = Vec::new();
        if noise {
            fields.extend_from_slice(&[0x10, 0xff, 0x01, 0x1a, 2, 9, 9, 0x21, 1, 2, 3, 4, 5, 6, 7, 8, 0x2d, 1, 2, 3, 4]);
        }
        if !data.is_empty() || noise {
            fields.push(0x0a);
            let mut length = data.len();
            while length > 0x7f {
                fields.push(u8::try_from(length & 0x7f).unwrap() | 0x80);
                length >>= 7;
            }
            fields.push(u8::try_from(length).unwrap());
            fields.extend_from_slice(data);
        }
        let mut message = vec![0];
        message.extend_from_slice(&u32::try_from(fields.len()).unwrap().to_be_bytes());
        message.extend_from_slice(&fields);
        message
    }

    async fn read(wire: &[u8], splits: &[usize]) -> io::Result<Vec<u8>> {
        let mut unread = wire;
        let mut chunks = Vec::new();
        for &split in splits.iter().cycle().take_while(|_| !splits.is_empty()) {
            let taken = split.min(unread.len());
            chunks.push(Ok::<_, io::Error>(Frame::data(Bytes::copy_from_slice(&unread[..taken]))));
            unread = &unread[taken..];
            if unread.is_empty() {
                break;
            }
        }
        chunks.push(Ok(Frame::data(Bytes::copy_from_slice(unread))));
        let (writer, _outgoing) = writer(None);
        let mut tunnel = Tunnel::new(StreamBody::new(futures_util::stream::iter(chunks)), writer);
        let mut data = Vec::new();
        tunnel.read_to_end(&mut data).await?;
        Ok(data)
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread().build().unwrap()
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_bytes(
            messages in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..600), any::<bool>()), 0..8),
            splits in prop::collection::vec(1_usize..700, 1..8),
        ) {
            let wire: Vec<u8> = messages.iter().flat_map(|(data, noise)| message(data, *noise)).collect();
            let wanted: Vec<u8> = messages.into_iter().flat_map(|(data, _)| data).collect();
            prop_assert_eq!(runtime().block_on(read(&wire, &splits)).unwrap(), wanted);
        }

        #[test]
        fn arbitrary_bytes_never_panic(wire in prop::collection::vec(any::<u8>(), 0..200), splits in prop::collection::vec(1_usize..50, 1..4)) {
            let _ = runtime().block_on(read(&wire, &splits));
        }
    }

    #[tokio::test]
    async fn what_is_written_is_read_back_in_large_messages() {
        let data: Vec<u8> = (0..700_000_u32).map(|index| index.to_le_bytes()[0]).collect();
        let (writer, outgoing) = writer(None);
        let mut tunnel = Tunnel::new(http_body_util::Empty::<Bytes>::new(), writer);
        let written = data.clone();
        let writer = async move {
            tunnel.write_all(&written).await.unwrap();
            tunnel.shutdown().await.unwrap();
        };
        let ((), wire) = tokio::join!(writer, outgoing.collect());
        let wire = wire.unwrap().to_bytes();
        assert_eq!(read(&wire, &[1 << 20]).await.unwrap(), data);
        assert_eq!(wire.len() - data.len(), 3 * HEADER_BYTES);
    }

    #[tokio::test]
    async fn a_stream_that_ends_inside_a_message_is_an_error() {
        let wire = message(b"hello", false);
        for cut in 1..wire.len() {
            assert!(read(&wire[..cut], &[3]).await.is_err(), "{cut}");
        }
    }
}
