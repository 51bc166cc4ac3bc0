//! The body of a request, on its way to the peer that answers.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Uri, Version, header, request};
use http_body::{Body, Frame};
use hyper::body::Incoming;

use crate::endpoints::control::grpc::tunnel::Outgoing;

/// What goes to the peer that answers. No variant tells its length: hyper would make a `content-length` of it, which the
/// caller never sent.
#[derive(Debug)]
pub(crate) enum RequestBody {
    /// As it comes from the caller.
    Streamed(Incoming),
    /// A message that was read before, and perhaps rewritten.
    Whole(Bytes),
    /// The byte stream of a session.
    Tunnel(Outgoing),
}

impl RequestBody {
    /// A request of one message, already framed.
    pub(crate) fn whole(uri: Uri, headers: HeaderMap, frame: Bytes) -> Request<Self> {
        let mut request = Request::new(Self::Whole(frame));
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = uri;
        *request.headers_mut() = headers;
        request
    }

    /// The request of `head` with another message, already framed.
    pub(crate) fn in_place(mut head: request::Parts, frame: Bytes) -> Request<Self> {
        head.headers.remove(header::CONTENT_LENGTH);
        Request::from_parts(head, Self::Whole(frame))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Streamed(body) => Pin::new(body).poll_frame(cx),
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
            Self::Tunnel(outgoing) => Pin::new(outgoing).poll_frame(cx).map_err(never),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Streamed(body) => body.is_end_stream(),
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Tunnel(_) => false,
        }
    }
}

/// The error of a body that cannot fail.
pub(super) fn never<E>(never: Infallible) -> E {
    match never {}
}
