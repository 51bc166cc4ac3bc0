//! What is left of a request's body when its answer is known.
//!
//! A refusal may come while the body is still on its way. hyper would close the connection under it, and
//! a client that writes still sees a broken pipe instead of the reason (*seen* with Go's HTTP client). So
//! the rest is read first, as far as that is reasonable. That holds for a client that asks whether to send its
//! body (`Expect: 100-continue`), too: it need not wait for the answer, and buildkitd does not (*seen* with
//! v0.33 on a busy machine: head and body came in one piece).

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// Three of the parts that BuildKit sends. Of a larger body nothing is read: its client sees the connection end.
const MAX_BYTES: u64 = 16 << 20;
const MAX_WAIT: Duration = Duration::from_secs(10);

/// Where a body's rest ends up when nobody reads it any more.
#[derive(Debug, Clone, Default)]
pub(super) struct Rest(Arc<Mutex<Option<Incoming>>>);

impl Rest {
    /// The body, for its reader.
    pub(super) fn of(&self, body: Incoming) -> Read {
        Read { body: Some(body), rest: self.clone() }
    }

    /// Reads what is left, and forgets it. Whether nothing of the body is to come any more.
    pub(super) async fn read(&self) -> bool {
        let left = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let Some(mut rest) = left else { return true };
        if rest.size_hint().lower() > MAX_BYTES {
            return false;
        }
        let read = async {
            let mut bytes = 0;
            while bytes <= MAX_BYTES {
                match rest.frame().await {
                    Some(Ok(frame)) => bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
                    ended => return ended.is_none(),
                }
            }
            false
        };
        // Whoever takes longer sees the connection end.
        tokio::time::timeout(MAX_WAIT, read).await.unwrap_or(false)
    }
}

/// A body that leaves its rest behind when it is dropped.
#[derive(Debug)]
pub(super) struct Read {
    body: Option<Incoming>,
    rest: Rest,
}

impl Body for Read {
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

impl Drop for Read {
    fn drop(&mut self) {
        if self.is_end_stream() {
            return;
        }
        *self.rest.0.lock().unwrap_or_else(PoisonError::into_inner) = self.body.take();
    }
}
