//! The answer to a unary call, read whole.

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, Response, response};
use http_body_util::BodyExt as _;
use tonic::{Code, Status};

use super::response_body::ResponseBody;
use crate::endpoints::control::grpc::{message, status};

/// An answer to read, to change or to send on.
#[derive(Debug)]
pub(crate) struct Answer {
    head: response::Parts,
    data: Bytes,
    trailers: Option<HeaderMap>,
}

impl Answer {
    /// Reads an answer of at most `max_bytes`. The error is what the caller gets instead.
    pub(super) async fn read(response: Response<ResponseBody>, max_bytes: u64) -> Result<Self, Status> {
        let (head, mut body) = response.into_parts();
        let mut data = BytesMut::new();
        let mut trailers = None;
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| Status::unavailable(format!("buildkitd's answer broke off: {error}")))?;
            match frame.into_data() {
                Ok(chunk) if (data.len() + chunk.len()) as u64 <= max_bytes => data.extend_from_slice(&chunk),
                Ok(_) => return Err(Status::resource_exhausted("buildkitd's answer is larger than control.max_message_bytes")),
                Err(frame) => trailers = frame.into_trailers().ok(),
            }
        }
        Ok(Self { head, data: data.freeze(), trailers })
    }

    /// Its code, from the trailers or else from the headers.
    pub(crate) fn code(&self) -> Option<Code> {
        self.trailers.as_ref().and_then(status::code).or_else(|| status::code(&self.head.headers))
    }

    /// Its message, if it is whole and not compressed.
    pub(crate) fn message(&self) -> Option<&[u8]> {
        message::payload(&self.data)
    }

    /// The same answer with another message, already framed.
    pub(crate) fn with_message(self, data: Bytes) -> Self {
        Self { data, ..self }
    }

    /// The answer, to be sent on.
    pub(crate) fn into_response(self) -> Response<ResponseBody> {
        Response::from_parts(self.head, ResponseBody::Whole(self.data, self.trailers))
    }
}
