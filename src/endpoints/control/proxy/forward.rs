//! Passes one call through: metadata, messages, trailers, deadline, cancellation, half-close.
//!
//! hyper moves the frames and flow control of each side; this file joins the two sides. Whoever goes
//! away first is told to the other: when the client resets its call, hyper drops the response body (or
//! the future that waits for it), which resets buildkitd's side; when buildkitd resets, its error is
//! handed to hyper, which resets the client's side for the same reason. Only a connection to buildkitd
//! that breaks becomes something else: an end with a status, so that the client can say what happened.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::request::Parts;
use http::{HeaderMap, Request, Response, header, response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use tonic::{Code, Status};

use super::body::{RequestBody, ResponseBody};
use super::call::Call;
use super::upstream::{SendError, Upstream};
use crate::endpoints::control::grpc::message;
use crate::endpoints::control::grpc::message::{ReadError, Unary};
use crate::endpoints::control::grpc::status;

/// The answer to a unary call, read whole.
#[derive(Debug)]
pub(crate) struct Answer {
    head: response::Parts,
    data: Bytes,
    end: Option<HeaderMap>,
}

impl Answer {
    /// Reads an answer of at most `max_bytes`. The error is what the caller gets instead.
    pub(crate) async fn read(response: Response<ResponseBody>, max_bytes: u64) -> Result<Self, Status> {
        let (head, mut body) = response.into_parts();
        let (mut data, mut end) = (BytesMut::new(), None);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Status::unavailable(format!("buildkitd's answer broke off: {error}")))?;
            match frame.into_data() {
                Ok(piece) if (data.len() + piece.len()) as u64 <= max_bytes => data.extend_from_slice(&piece),
                Ok(_) => return Err(Status::resource_exhausted("buildkitd's answer is larger than control.max_message_bytes")),
                Err(frame) => end = frame.into_trailers().ok(),
            }
        }
        Ok(Self { head, data: data.freeze(), end })
    }

    /// The status, wherever it stands.
    pub(crate) fn code(&self) -> Option<Code> {
        self.end.as_ref().and_then(status::code).or_else(|| status::code(&self.head.headers))
    }

    /// Its message, if it is whole and not compressed.
    pub(crate) fn message(&self) -> Option<&[u8]> {
        message::payload(&self.data)
    }

    /// The same answer with another message, already framed.
    pub(crate) fn with_message(self, data: Bytes) -> Self {
        Self { data, ..self }
    }

    pub(crate) fn into_response(self) -> Response<ResponseBody> {
        Response::from_parts(self.head, ResponseBody::Whole(self.data, self.end))
    }
}

/// Sends the request to buildkitd and returns its response, which goes on to stream.
///
/// # Errors
/// The reset of this one call by buildkitd.
pub(crate) async fn forward(
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
            Ok(response.map(|body| ResponseBody::relayed(body, call, upstream, is_grpc)))
        }
        Err(SendError::Unavailable(status)) => Ok(refuse(call, status)),
        Err(SendError::Reset(error)) => {
            call.ends_with(tonic::Code::Unknown);
            Err(error)
        }
    }
}

/// Reads a unary call's one message. The error is what its caller gets instead.
pub(crate) async fn read_whole(
    request: Request<Incoming>,
    max_bytes: u64,
    call: Call,
) -> Result<(Parts, Unary, Call), Result<Response<ResponseBody>, hyper::Error>> {
    let (head, body) = request.into_parts();
    match Unary::read(&head.headers, body, max_bytes).await {
        Ok(unary) => Ok((head, unary, call)),
        Err(ReadError::Refused(status)) => Err(Ok(refuse(call, status))),
        Err(ReadError::Gone(error)) => Err(Err(error)),
    }
}

/// Ends a call without asking buildkitd.
pub(crate) fn refuse(mut call: Call, status: Status) -> Response<ResponseBody> {
    call.ends_with(status.code());
    status::response(status)
}

fn is_grpc(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}
