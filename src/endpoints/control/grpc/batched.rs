//! A byte stream whose small writes are sent together.
//!
//! HTTP/2 data comes in frames of 16 KiB, the most that gRPC's peers take, and the h2 crate flushes after each frame.
//! That would cost a system call, or a message of a session, for every frame. Here a flush waits until the
//! connection's task is polled again. A connection reads first whenever it is polled (h2 0.4), so the read sends what
//! was written in the poll before.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, BufStream, ReadBuf};

/// Bytes that are read from a socket at once, and bytes of writes that are held. The peers write 32 KiB at once: this
/// is a few times that.
const BUFFER_BYTES: usize = 128 << 10;

/// The byte stream of an HTTP/2 connection. `T` holds what is written until it is flushed.
#[derive(Debug)]
pub(crate) struct Batched<T> {
    stream: T,
    unsent: Unsent,
}

/// What was written and not yet flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Unsent {
    Nothing,
    Written,
    /// The connection has asked for a flush.
    Due,
}

/// A socket that is read and written in large chunks.
pub(crate) fn socket<T: AsyncRead + AsyncWrite>(socket: T) -> Batched<BufStream<T>> {
    Batched::new(BufStream::with_capacity(BUFFER_BYTES, BUFFER_BYTES, socket))
}

impl<T> Batched<T> {
    pub(crate) fn new(stream: T) -> Self {
        Self { stream, unsent: Unsent::Nothing }
    }
}

impl<T: AsyncRead + AsyncWrite + Unpin> AsyncRead for Batched<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.unsent == Unsent::Due
            && let Poll::Ready(flushed) = Pin::new(&mut this.stream).poll_flush(cx)
        {
            flushed?;
            this.unsent = Unsent::Nothing;
        }
        Pin::new(&mut this.stream).poll_read(cx, buf)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Batched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.unsent = self.unsent.max(Unsent::Written);
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        self.unsent = self.unsent.max(Unsent::Written);
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    /// Does not wait: it has the connection's task polled again, and the flush is done then.
    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.unsent == Unsent::Written {
            self.unsent = Unsent::Due;
            cx.waker().wake_by_ref();
        }
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::{Wake, Waker};

    use super::*;

    /// Takes what is written, and has nothing to read.
    #[derive(Debug, Default)]
    struct Recorder(Vec<usize>);

    impl AsyncRead for Recorder {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Pending
        }
    }

    impl AsyncWrite for Recorder {
        fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
            self.0.push(buf.len());
            Poll::Ready(Ok(buf.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[derive(Default)]
    struct Wakes(AtomicUsize);

    impl Wake for Wakes {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn write(io: &mut Batched<BufStream<Recorder>>, cx: &mut Context<'_>, bytes: usize) {
        assert!(matches!(Pin::new(&mut *io).poll_write(cx, &vec![0; bytes]), Poll::Ready(Ok(taken)) if taken == bytes));
        assert!(matches!(Pin::new(io).poll_flush(cx), Poll::Ready(Ok(()))));
    }

    fn read(io: &mut Batched<BufStream<Recorder>>, cx: &mut Context<'_>) {
        assert!(Pin::new(io).poll_read(cx, &mut ReadBuf::new(&mut [0; 16])).is_pending());
    }

    #[test]
    fn what_one_turn_writes_leaves_in_the_next_at_once() {
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let (mut io, mut cx) = (socket(Recorder::default()), Context::from_waker(&waker));
        for _ in 0..3 {
            write(&mut io, &mut cx, 1000);
        }
        assert!(io.stream.get_ref().0.is_empty());
        assert_eq!(wakes.0.load(Ordering::Relaxed), 1);
        read(&mut io, &mut cx);
        assert_eq!(io.stream.get_ref().0, [3000]);
        write(&mut io, &mut cx, 10);
        read(&mut io, &mut cx);
        assert_eq!(io.stream.get_ref().0, [3000, 10]);
    }

    #[test]
    fn a_flush_with_nothing_written_asks_for_no_turn() {
        let wakes = Arc::new(Wakes::default());
        let waker = Waker::from(Arc::clone(&wakes));
        let (mut io, mut cx) = (socket(Recorder::default()), Context::from_waker(&waker));
        for _ in 0..3 {
            assert!(Pin::new(&mut io).poll_flush(&mut cx).is_ready());
            read(&mut io, &mut cx);
        }
        assert_eq!(wakes.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_shutdown_sends_what_is_left() {
        let mut cx = Context::from_waker(Waker::noop());
        let mut io = socket(Recorder::default());
        write(&mut io, &mut cx, 7);
        assert!(Pin::new(&mut io).poll_shutdown(&mut cx).is_ready());
        assert_eq!(io.stream.get_ref().0, [7]);
    }
}
