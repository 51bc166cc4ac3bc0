//! Errors of the cache as errors of S3. This is the only place of the endpoint where they are logged.
//!
//! The codes are chosen by what the AWS SDKs do with them: they retry after 500 and 503, and show the message of everything
//! else at once. So only errors that may go away by themselves get one of those two.

use http::StatusCode;
use s3s::{S3Error, S3ErrorCode};

use crate::cache::Error;
use crate::metrics::Class;
use crate::types::Denied;

impl From<Error> for S3Error {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match &error {
            Error::Corrupt(_) | Error::Internal(_) => tracing::error!(%error, "an s3 request failed"),
            Error::Unavailable(_) | Error::Exhausted(_) | Error::Refused(_) => tracing::warn!(%error, "an s3 request failed"),
            _ => tracing::debug!(%error, "an s3 request was refused"),
        }
        let code = match error {
            Error::NotFound(_) => S3ErrorCode::NoSuchKey,
            Error::AlreadyExists(_) | Error::Precondition(_) | Error::Conflict(_) => S3ErrorCode::PreconditionFailed,
            Error::Invalid(_) => S3ErrorCode::InvalidRequest,
            Error::Corrupt(_) => return corrupt(message),
            Error::Denied(_) | Error::Refused(_) => S3ErrorCode::AccessDenied,
            Error::OutOfRange(_) => S3ErrorCode::InvalidRange,
            Error::Locked(_) => S3ErrorCode::OperationAborted,
            Error::Exhausted(_) => S3ErrorCode::SlowDown,
            Error::Unavailable(_) => S3ErrorCode::ServiceUnavailable,
            Error::Internal(_) => S3ErrorCode::InternalError,
        };
        Self::with_message(code, message)
    }
}

impl From<Denied> for S3Error {
    fn from(denied: Denied) -> Self {
        Error::from(denied).into()
    }
}

/// S3 has no code for this, since S3 promises that it cannot happen.
fn corrupt(message: String) -> S3Error {
    let mut error = S3Error::with_message(S3ErrorCode::Custom("CorruptObject".into()), message);
    error.set_status_code(StatusCode::UNPROCESSABLE_ENTITY);
    error
}

/// How a request ended, for the metrics.
pub(super) fn class(status: StatusCode) -> Class {
    if status == StatusCode::NOT_FOUND {
        Class::Miss
    } else if status.is_client_error() || status == StatusCode::NOT_IMPLEMENTED {
        Class::Refused
    } else if status.is_server_error() {
        Class::Failed
    } else {
        Class::Ok
    }
}
