//! What is left of a request's body when its answer is known.
//!
//! A refusal may come while the body is still on its way. hyper would close the connection under it, and
//! a client that writes still sees a broken pipe instead of the reason (*seen* with Go's HTTP client). So
//! the rest is read first, as far as that is reasonable. A client that waits to be told to go on
//! (`Expect: 100-continue`) is told that the connection ends: else Go's sends the body behind the answer.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;

/// Twice the parts that BuildKit sends; clients announce larger bodies with `Expect` and wait.
const MAX_BYTES: u64 = 16 << 20;
const MAX_WAIT: Duration = Duration::from_secs(10);

/// Where a body's rest ends up when nobody reads it any more.
#[derive(Debug, Clone, Default)]
pub(super) struct Rest(Arc<Mutex<Left>>);

/// What is left of a body.
#[derive(Debug, Default)]
enum Left {
    #[default]
    Nothing,
    /// It is on its way.
    Some(Incoming),
    /// All of it; the client has not begun.
    Unasked,
}

impl Rest {
    /// The body, for its reader.
    pub(super) fn of(&self, body: Incoming, headers: &HeaderMap) -> Read {
        Read { body: Some(body), client_waits: headers.contains_key(header::EXPECT), rest: self.clone() }
    }

    /// Reads what is left, and forgets it. Whether nothing of the body is to come any more.
    pub(super) async fn read(&self) -> bool {
        let left = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
        let mut rest = match left {
            Left::Nothing => return true,
            Left::Some(rest) => rest,
            Left::Unasked => return false,
        };
        let read = async {
            let mut bytes = 0;
            while bytes < MAX_BYTES {
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
    /// The client sends nothing before it is told to go on, which the first read does.
    client_waits: bool,
    rest: Rest,
}

impl Body for Read {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        self.client_waits = false;
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
        let left = if self.client_waits { Left::Unasked } else { self.body.take().map_or(Left::Nothing, Left::Some) };
        *self.rest.0.lock().unwrap_or_else(PoisonError::into_inner) = left;
    }
}
