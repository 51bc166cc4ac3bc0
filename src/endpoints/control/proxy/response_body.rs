//! The body of a response, on its way back to the caller.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use http_body_util::combinators::UnsyncBoxBody;
use hyper::body::Incoming;

use super::call::Call;
use super::request_body::never;
use super::upstream::{Upstream, is_reset};
use crate::endpoints::control::grpc::status;
use crate::endpoints::control::grpc::tunnel::Outgoing;

/// What goes back to the caller.
#[derive(Debug, Default)]
pub(crate) enum ResponseBody {
    /// Nothing: the headers say it all, or the body has been sent.
    #[default]
    Empty,
    /// As it comes from the peer.
    Relayed(Box<Relayed>),
    /// An answer that was read before, and perhaps rewritten: the data, then the trailers.
    Whole(Bytes, Option<HeaderMap>),
    /// The byte stream of a session, whose call ends with it.
    Tunnel(Outgoing, Box<Call>),
    /// remora's own answer in a session.
    Served(tonic::body::Body),
    /// A body that another room has made, such as one that changes what it relays.
    Boxed(UnsyncBoxBody<Bytes, BodyError>),
}

/// A body on its way back. It owns its call: the call is over when hyper drops this, however it ended.
#[derive(Debug)]
pub(crate) struct Relayed {
    body: Incoming,
    call: Call,
    upstream: Arc<Upstream>,
    is_grpc: bool,
    upstream_broke: bool,
}

/// The error of a body. hyper looks in it for the reason of a reset.
pub(crate) type BodyError = Box<dyn std::error::Error + Send + Sync>;

impl ResponseBody {
    pub(super) fn relayed(body: Incoming, call: Call, upstream: Arc<Upstream>, is_grpc: bool) -> Self {
        Self::Relayed(Box::new(Relayed { body, call, upstream, is_grpc, upstream_broke: false }))
    }

    /// The byte stream of a session, whose call ends with it.
    pub(crate) fn tunnel(outgoing: Outgoing, call: Call) -> Self {
        Self::Tunnel(outgoing, Box::new(call))
    }

    /// A body that another room has made.
    pub(crate) fn boxed(body: impl Body<Data = Bytes, Error = BodyError> + Send + 'static) -> Self {
        Self::Boxed(body.boxed_unsync())
    }
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match &mut *self {
            Self::Empty => Poll::Ready(None),
            Self::Relayed(relayed) => {
                let frame = ready!(relayed.poll_frame(cx));
                if relayed.upstream_broke {
                    *self = Self::Empty;
                }
                Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
            }
            Self::Whole(data, trailers) if data.is_empty() => Poll::Ready(trailers.take().map(|trailers| Ok(Frame::trailers(trailers)))),
            Self::Whole(data, _) => Poll::Ready(Some(Ok(Frame::data(std::mem::take(data))))),
            Self::Tunnel(outgoing, call) => {
                let frame = ready!(Pin::new(outgoing).poll_frame(cx)).map(|frame| frame.map_err(never));
                if let Some(trailers) = frame.as_ref().and_then(|frame| frame.as_ref().ok()?.trailers_ref()) {
                    call.record_code_in(trailers);
                }
                Poll::Ready(frame)
            }
            Self::Served(body) => Pin::new(body).poll_frame(cx).map_err(Into::into),
            Self::Boxed(body) => Pin::new(body).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Relayed(relayed) => relayed.body.is_end_stream(),
            Self::Whole(data, trailers) => data.is_empty() && trailers.is_none(),
            Self::Tunnel(..) => false,
            Self::Served(body) => body.is_end_stream(),
            Self::Boxed(body) => body.is_end_stream(),
        }
    }
}

impl Relayed {
    /// The next frame. Where the peer left without a status, the last frame has one that says so.
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let broken = match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
            Some(Ok(frame)) => {
                if let Some(trailers) = frame.trailers_ref() {
                    self.call.record_code_in(trailers);
                }
                return Poll::Ready(Some(Ok(frame)));
            }
            Some(Err(error)) if is_reset(&error) => {
                self.call.record_code(tonic::Code::Unknown);
                return Poll::Ready(Some(Err(error)));
            }
            Some(Err(error)) => self.upstream.broken(&error),
            None if self.call.has_code() || !self.is_grpc => return Poll::Ready(None),
            None => self.upstream.broken("the response ended without a status"),
        };
        self.call.record_code(broken.code());
        self.upstream_broke = true;
        Poll::Ready(Some(Ok(Frame::trailers(status::trailers(&broken)))))
    }
}
