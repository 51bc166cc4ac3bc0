//! The stream of a `Control/Status` call, with the right names on its vertexes.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::request::Parts;
use http::{Request, Response};
use http_body::{Body, Frame};

use super::vertex_names::Progress;
use crate::endpoints::control::grpc::message::{self, Messages, Unary};
use crate::endpoints::control::proxy::{BodyError, RequestBody, ResponseBody};

/// What the request says of compression. Compressed messages cannot be read here, and buildkitd compresses where it is
/// asked to or was sent a compressed message.
const ENCODING: [&str; 2] = ["grpc-encoding", "grpc-accept-encoding"];

/// What may follow on a stream when its messages are over: one more message, and another stream.
pub(super) type FollowUp = BoxFuture<'static, Option<(Bytes, ResponseBody)>>;

/// A `Status` stream of one build. Its messages are changed one by one, and whole.
#[derive(Debug)]
struct NamedStream {
    inner: ResponseBody,
    messages: Messages,
    /// The trailers, while bytes that were held are sent before them.
    last: Option<Frame<Bytes>>,
    progress: Arc<Progress>,
    reference: String,
    next: NextStream,
}

/// Whether another stream follows.
enum NextStream {
    /// No stream follows.
    No,
    /// Decided once the messages are over.
    Later(FollowUp),
    /// Being decided. The messages ended with this frame.
    Now(FollowUp, Option<Frame<Bytes>>),
}

impl fmt::Debug for NextStream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::No => "No",
            Self::Later(_) => "Later",
            Self::Now(..) => "Now",
        })
    }
}

/// A `Status` request that is answered without compression.
pub(crate) fn uncompressed(mut head: Parts, unary: Unary) -> Request<RequestBody> {
    let frame = message::frame(&unary.message).unwrap_or(unary.frame);
    for name in ENCODING {
        head.headers.remove(name);
    }
    RequestBody::in_place(head, frame)
}

/// The response to a `Status` call, with the vertexes of the build `reference` named as `progress` says, and behind it
/// what `follow_up` finds.
pub(crate) fn named(
    progress: Arc<Progress>,
    reference: String,
    response: Response<ResponseBody>,
    follow_up: Option<FollowUp>,
) -> Response<ResponseBody> {
    let next = follow_up.map_or(NextStream::No, NextStream::Later);
    let stream = |inner| NamedStream { inner, messages: Messages::default(), last: None, progress, reference, next };
    response.map(|inner| ResponseBody::boxed(stream(inner)))
}

impl Body for NamedStream {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(last) = this.last.take() {
            return Poll::Ready(Some(Ok(last)));
        }
        loop {
            if let NextStream::Now(follow_up, ended) = &mut this.next {
                let found = ready!(follow_up.as_mut().poll(cx));
                let ended = ended.take();
                this.next = NextStream::No;
                let Some((notice, inner)) = found else { return Poll::Ready(ended.map(Ok)) };
                this.inner = inner;
                return Poll::Ready(Some(Ok(Frame::data(notice))));
            }
            let trailers = match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        let whole = this.messages.push(&data, |message| this.progress.rename(&this.reference, message));
                        if whole.is_empty() {
                            continue;
                        }
                        return Poll::Ready(Some(Ok(Frame::data(whole))));
                    }
                    Err(trailers) => Some(trailers),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => None,
            };
            let partial = this.messages.take_partial();
            if partial.is_empty() {
                if let NextStream::Later(follow_up) = std::mem::replace(&mut this.next, NextStream::No) {
                    this.next = NextStream::Now(follow_up, trailers);
                    continue;
                }
                return Poll::Ready(trailers.map(Ok));
            }
            this.last = trailers;
            return Poll::Ready(Some(Ok(Frame::data(partial))));
        }
    }

    fn is_end_stream(&self) -> bool {
        let over = self.last.is_none() && self.messages.is_empty() && self.inner.is_end_stream();
        over && matches!(self.next, NextStream::No)
    }
}
