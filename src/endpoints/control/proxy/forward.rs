//! Passes one call through: metadata, messages, trailers, deadline, cancellation, half-close.
//!
//! hyper moves the frames and the flow control of each side, and this file joins the two sides. When one side goes
//! away, the other side is told. When the client resets its call, hyper drops the response body (or the future that
//! waits for it), which resets buildkitd's side. When buildkitd resets a call, its error is handed to hyper, which
//! resets the client's side for the same reason. A broken connection to buildkitd alone becomes something else: an end
//! with a status, so that the client can say what happened.

use std::sync::Arc;
use std::time::Duration;

use http::request::Parts;
use http::{HeaderMap, Request, Response, header};
use hyper::body::Incoming;
use tonic::{Code, Status};

use super::answer::Answer;
use super::call::Call;
use super::request_body::RequestBody;
use super::response_body::ResponseBody;
use super::upstream::{SendError, Upstream};
use crate::endpoints::control::grpc::message::{ReadError, Unary};
use crate::endpoints::control::grpc::status;
use crate::metrics::Metrics;

/// How a call is answered. On an error the stream to the caller is reset, as the peer has reset its own.
pub(crate) type Answered = Result<Response<ResponseBody>, hyper::Error>;

/// Passes calls on.
#[derive(Debug, Clone)]
pub(crate) struct Proxy {
    metrics: Metrics,
    connect_timeout: Duration,
    max_message_bytes: u64,
}

/// A unary call whose message has been read.
#[derive(Debug)]
pub(crate) struct UnaryCall {
    /// The head of its request.
    pub(crate) head: Parts,
    /// Its message.
    pub(crate) unary: Unary,
    /// The call itself.
    pub(crate) call: Call,
}

impl Proxy {
    /// Calls wait up to `connect_timeout` for buildkitd to be there; messages that are read whole have at most
    /// `max_message_bytes`.
    pub(crate) fn new(metrics: Metrics, connect_timeout: Duration, max_message_bytes: u64) -> Self {
        Self { metrics, connect_timeout, max_message_bytes }
    }

    /// A call of this path begins.
    pub(crate) fn begin(&self, path: &str) -> Call {
        Call::begin(path, self.metrics.clone())
    }

    /// Sends the request to the peer and returns its response, which goes on to stream.
    ///
    /// # Errors
    /// The reset of this one call by the peer.
    pub(crate) async fn forward(&self, upstream: &Arc<Upstream>, request: Request<RequestBody>, call: Call) -> Answered {
        let (response, call) = match self.send(upstream, request, call).await {
            Ok(sent) => sent,
            Err(ended) => return ended,
        };
        let upstream = Arc::clone(upstream);
        let is_grpc = is_grpc(response.headers());
        Ok(response.map(|body| ResponseBody::relayed(body, call, upstream, is_grpc)))
    }

    /// Forwards a call of which nothing is read.
    ///
    /// # Errors
    /// The reset of this one call by the peer.
    pub(crate) async fn forward_unread(&self, upstream: &Arc<Upstream>, request: Request<Incoming>, call: Call) -> Answered {
        self.forward(upstream, request.map(RequestBody::Streamed), call).await
    }

    /// Sends the request to the peer and returns the bare response, whose body the caller reads.
    ///
    /// # Errors
    /// What the call's caller gets where there is no response.
    pub(crate) async fn send(
        &self,
        upstream: &Upstream,
        request: Request<RequestBody>,
        mut call: Call,
    ) -> Result<(Response<Incoming>, Call), Answered> {
        match upstream.send(request, self.connect_timeout).await {
            Ok(response) => {
                call.record_code_in(response.headers());
                Ok((response, call))
            }
            Err(SendError::Unavailable(status)) => Err(Ok(refuse(call, status))),
            Err(SendError::Reset(error)) => {
                call.record_code(Code::Unknown);
                Err(Err(error))
            }
        }
    }

    /// Reads a unary call's one message. The error is what its caller gets instead.
    pub(crate) async fn read_call(&self, request: Request<Incoming>, call: Call) -> Result<UnaryCall, Answered> {
        let (head, body) = request.into_parts();
        match Unary::read(&head.headers, body, self.max_message_bytes).await {
            Ok(unary) => Ok(UnaryCall { head, unary, call }),
            Err(ReadError::Refused(status)) => Err(Ok(refuse(call, status))),
            Err(ReadError::Gone(error)) => Err(Err(error)),
        }
    }

    /// Reads the answer to a unary call. The error is what its caller gets instead.
    pub(crate) async fn read_answer(&self, response: Response<ResponseBody>) -> Result<Answer, Status> {
        Answer::read(response, self.max_message_bytes).await
    }
}

/// Ends a call without asking the peer.
pub(crate) fn refuse(mut call: Call, status: Status) -> Response<ResponseBody> {
    call.record_code(status.code());
    status::response(status)
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}
