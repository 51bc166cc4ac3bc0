//! gRPC statuses: remora's own failures as responses, and what a status counts as in the metrics.

use http::{HeaderMap, Response};
use tonic::{Code, Status};

use crate::metrics::Class;

/// A response that has the status and nothing else.
pub(crate) fn response<B: Default>(status: Status) -> Response<B> {
    status.into_http()
}

/// A status as trailers, for a response that has already begun.
pub(crate) fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    // This fails for a message that no header can carry. The code is set before that.
    let _ = status.add_header(&mut trailers);
    trailers
}

/// The code in the headers or trailers of a response.
pub(crate) fn code(headers: &HeaderMap) -> Option<Code> {
    headers.get(Status::GRPC_STATUS).map(|value| Code::from_bytes(value.as_bytes()))
}

/// What a code counts as. `Unknown` is what a build that fails by itself ends with, which is no failure of remora's.
pub(crate) fn class(code: Code) -> Class {
    match code {
        Code::Ok | Code::Cancelled => Class::Ok,
        Code::NotFound => Class::Miss,
        Code::Unknown
        | Code::InvalidArgument
        | Code::DeadlineExceeded
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::ResourceExhausted
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unauthenticated => Class::Refused,
        Code::Internal | Code::Unavailable | Code::DataLoss => Class::Failed,
    }
}
