//! The part of a request's body that nobody has read when the answer is known.
//!
//! A refusal may be ready while the body is still arriving. hyper would then close the connection, and a client that is
//! still writing sees a broken pipe instead of the reason (*seen* with Go's HTTP client). So the unread part is read
//! first, within bounds. This also applies to a client that asks whether to send its body (`Expect: 100-continue`): it
//! need not wait for the answer, and buildkitd does not (*seen* with v0.33 on a busy machine: head and body arrived
//! together).

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// Three of the parts that BuildKit sends. A larger unread body is not read: its client sees the connection end.
const MAX_BYTES: u64 = 16 << 20;
const MAX_WAIT: Duration = Duration::from_secs(10);

/// Where a [`TrackedBody`] puts its unread part when it is dropped.
#[derive(Debug, Clone, Default)]
pub(super) struct Unread(Arc<Mutex<Option<Incoming>>>);

impl Unread {
    /// `body`, for the code that reads it.
    pub(super) fn track(&self, body: Incoming) -> TrackedBody {
        TrackedBody { body: Some(body), unread: self.clone() }
    }

    /// Reads the unread part and forgets it. Returns whether the body is at its end, so that the connection can be used
    /// again. Call this after the [`TrackedBody`] is dropped.
    pub(super) async fn drain(&self) -> bool {
        let unread = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let Some(mut unread) = unread else { return true };
        if unread.size_hint().lower() > MAX_BYTES {
            return false;
        }
        let read = async {
            let mut bytes = 0;
            while bytes <= MAX_BYTES {
                match unread.frame().await {
                    Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
                    ended => return ended.is_none(),
                }
            }
            false
        };
        // A client that takes longer sees the connection end.
        tokio::time::timeout(MAX_WAIT, read).await.unwrap_or(false)
    }
}

/// The body of a request. When it is dropped, its unread part goes to [`Unread`].
#[derive(Debug)]
pub(super) struct TrackedBody {
    body: Option<Incoming>,
    unread: Unread,
}

impl Body for TrackedBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = self.body.as_mut() else { return Poll::Ready(None) };
        let frame = ready!(Pin::new(body).poll_frame(context));
        if !matches!(frame, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for TrackedBody {
    fn drop(&mut self) {
        if self.is_end_stream() {
            return;
        }
        *self.unread.0.lock().unwrap_or_else(PoisonError::into_inner) = self.body.take();
    }
}
