//! Passes one call through: metadata, messages, trailers, deadline, cancellation, half-close.
//!
//! hyper moves the frames and flow control of each side; this file joins the two sides. Whoever goes
//! away first is told to the other: when the client resets its call, hyper drops the response body (or
//! the future that waits for it), which resets buildkitd's side; when buildkitd resets, its error is
//! handed to hyper, which resets the client's side for the same reason. Only a connection to buildkitd
//! that breaks becomes something else: an end with a status, so that the client can say what happened.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response, header};
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tonic::Status;

use super::call::Call;
use super::status;
use super::upstream::{SendError, Upstream, is_reset};

/// Sends the request to buildkitd and returns its response, which goes on to stream.
///
/// # Errors
/// The reset of this one call by buildkitd.
pub(super) async fn forward(
    upstream: &Arc<Upstream>,
    request: Request<RequestBody>,
    patience: Duration,
    mut call: Call,
) -> Result<Response<ResponseBody>, hyper::Error> {
    match upstream.send(request, patience).await {
        Ok(response) => {
            call.saw(response.headers());
            let upstream = Arc::clone(upstream);
            let is_grpc = is_grpc(response.headers());
            Ok(response.map(|body| ResponseBody(Some(Relayed { body, call, upstream, is_grpc }))))
        }
        Err(SendError::Unavailable(status)) => Ok(refuse(call, status)),
        Err(SendError::Reset(error)) => {
            call.ends_with(tonic::Code::Unknown);
            Err(error)
        }
    }
}

/// Ends a call without asking buildkitd.
pub(super) fn refuse(mut call: Call, status: Status) -> Response<ResponseBody> {
    call.ends_with(status.code());
    status::response(status)
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// What goes to buildkitd. Neither kind tells its length, since hyper would make a `content-length` of
/// it that the client never sent.
#[derive(Debug)]
pub(super) enum RequestBody {
    /// As it comes from the client.
    Streamed(Incoming),
    /// Read, and perhaps patched, before.
    Whole(Bytes),
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Streamed(body) => Pin::new(body).poll_frame(cx),
            Self::Whole(bytes) if bytes.is_empty() => Poll::Ready(None),
            Self::Whole(bytes) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(bytes))))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Streamed(body) => body.is_end_stream(),
            Self::Whole(bytes) => bytes.is_empty(),
        }
    }
}

/// What goes to the client; nothing, where the headers say it all. Owns its call: the call is over
/// when hyper drops this, whichever way it ended.
#[derive(Debug, Default)]
pub(super) struct ResponseBody(Option<Relayed>);

#[derive(Debug)]
struct Relayed {
    body: Incoming,
    call: Call,
    upstream: Arc<Upstream>,
    is_grpc: bool,
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(relayed) = &mut self.0 else { return Poll::Ready(None) };
        let broken = match ready!(Pin::new(&mut relayed.body).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    relayed.call.saw(trailers);
                }
                return Poll::Ready(Some(Ok(frame)));
            }
            Some(Err(error)) if is_reset(&error) => {
                relayed.call.ends_with(tonic::Code::Unknown);
                return Poll::Ready(Some(Err(error)));
            }
            Some(Err(error)) => relayed.upstream.broken(&error),
            None if relayed.call.has_ended() || !relayed.is_grpc => return Poll::Ready(None),
            None => relayed.upstream.broken("the response ended without a status"),
        };
        relayed.call.ends_with(broken.code());
        self.0 = None;
        Poll::Ready(Some(Ok(Frame::trailers(status::trailers(&broken)))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.as_ref().is_none_or(|relayed| relayed.body.is_end_stream())
    }
}
