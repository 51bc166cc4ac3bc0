//! The cache's errors as gRPC statuses, and statuses in metrics and logs.

use tonic::{Code, Status};

use crate::cache::Error;
use crate::metrics::Class;

/// The status of an error; its text is the error's.
pub(super) fn from_error(error: &Error) -> Status {
    let code = match error {
        Error::NotFound(_) => Code::NotFound,
        Error::AlreadyExists(_) => Code::AlreadyExists,
        Error::Invalid(_) => Code::InvalidArgument,
        Error::Corrupt(_) => Code::DataLoss,
        Error::Denied(_) | Error::Refused(_) => Code::PermissionDenied,
        Error::Precondition(_) => Code::FailedPrecondition,
        Error::Conflict(_) => Code::Aborted,
        Error::OutOfRange(_) => Code::OutOfRange,
        // A ref with a writer is free again soon: containerd's client tries again on this one alone.
        Error::Locked(_) | Error::Unavailable(_) => Code::Unavailable,
        Error::Exhausted(_) => Code::ResourceExhausted,
        Error::Internal(_) => Code::Internal,
    };
    Status::new(code, error.to_string())
}

/// The same in Write, where `UNAVAILABLE` is a ref with a writer, for which containerd's client asks again without
/// end (`content.OpenWriter`): a store that does not answer must not be told so.
pub(super) fn of_write(error: &Error) -> Status {
    match error {
        Error::Unavailable(_) => Status::unknown(error.to_string()),
        other => from_error(other),
    }
}

/// How a call that ended so is counted.
pub(super) fn class(code: Code) -> Class {
    match code {
        Code::Ok | Code::Cancelled => Class::Ok,
        Code::NotFound => Class::Miss,
        Code::InvalidArgument
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unimplemented
        | Code::Unauthenticated => Class::Refused,
        Code::Unknown | Code::DeadlineExceeded | Code::ResourceExhausted | Code::Internal | Code::Unavailable | Code::DataLoss => {
            Class::Failed
        }
    }
}

/// Writes down how a call ended: the one place where this endpoint's errors are logged.
pub(super) fn log(operation: &'static str, status: &Status) {
    let (code, reason) = (status.code(), status.message());
    match class(code) {
        Class::Failed => tracing::warn!(operation, ?code, reason, "a call of the content endpoint failed"),
        Class::Ok | Class::Miss | Class::Refused => tracing::debug!(operation, ?code, reason, "a call of the content endpoint was refused"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_writer_waits_for_another_and_not_for_the_store() {
        let (locked, outage) = (Error::Locked(String::new()), Error::Unavailable("the store".to_owned()));
        assert_eq!((from_error(&locked).code(), from_error(&outage).code()), (Code::Unavailable, Code::Unavailable));
        assert_eq!(of_write(&locked).code(), Code::Unavailable);
        let told = of_write(&outage);
        assert!(told.code() == Code::Unknown && told.message().contains("the store"), "{told:?}");
    }
}
