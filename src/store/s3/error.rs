//! Errors of S3 and of the SDK as errors of the store. This is the only place that knows S3's error codes.

use std::fmt::Debug;
use std::sync::Arc;

use aws_credential_types::provider::error::CredentialsError;
use aws_sdk_s3::config::http::HttpResponse;
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};

use crate::store::Error;

/// Codes that refuse the caller. Some of them come with status 400.
const DENIED: [&str; 9] = [
    "AccessDenied",
    "AuthorizationHeaderMalformed",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
    "TokenRefreshRequired",
    "UnauthorizedAccess",
];
/// Codes that ask for fewer requests or fewer bytes, whatever their status. The last three are those of MinIO and Ceph.
const EXHAUSTED: [&str; 7] = [
    "SlowDown",
    "RequestLimitExceeded",
    "Throttling",
    "ThrottlingException",
    "QuotaExceeded",
    "XMinioAdminBucketQuotaExceeded",
    "XMinioStorageFull",
];

/// The error of the store for `action` on `subject`, which has failed. S3's messages name keys and conditions, but never a
/// secret.
pub(super) fn refusal<E>(action: &str, subject: &str, error: SdkError<E, HttpResponse>) -> Error
where
    E: ProvideErrorMetadata + std::error::Error + Debug + Send + Sync + 'static,
{
    let status = error.raw_response().map(|response| response.status().as_u16());
    match (&error, status) {
        (SdkError::ServiceError(refused), Some(status)) => {
            let code = refused.err().code().unwrap_or_default();
            let said = refused.err().message().unwrap_or("no message");
            classify(status, code, format!("{action} {subject:?}: {status} {code}: {said}"), subject)
        }
        (SdkError::ConstructionFailure(_), _) => Error::Invalid(format!("{action} {subject:?}: {}", causes(&error))),
        (SdkError::DispatchFailure(_), _) if credentials_refused(&error) => {
            Error::Denied(format!("{action} {subject:?}: no credentials for S3: {}", causes(&error)))
        }
        (SdkError::TimeoutError(_) | SdkError::DispatchFailure(_) | SdkError::ResponseError(_), _) => {
            Error::Unavailable(format!("{action} {subject:?}: {}", causes(&error)))
        }
        _ => Error::Internal { message: format!("{action} {subject:?}"), source: Some(Arc::new(error)) },
    }
}

fn classify(status: u16, code: &str, message: String, subject: &str) -> Error {
    match status {
        _ if EXHAUSTED.contains(&code) => Error::Exhausted(message),
        _ if DENIED.contains(&code) => Error::Denied(message),
        501 => Error::Unsupported(message),
        _ if code == "NotImplemented" => Error::Unsupported(message),
        400 if code == "RequestTimeout" => Error::Unavailable(message),
        404 => Error::NotFound(message),
        412 => Error::Precondition(subject.to_owned()),
        409 if code == "ConditionalRequestConflict" => Error::Precondition(subject.to_owned()),
        401 | 403 => Error::Denied(message),
        429 => Error::Exhausted(message),
        301 | 307 => Error::Invalid(format!("{message} (is the bucket in another region?)")),
        416 => Error::Invalid(message),
        // The answer to a HEAD has no code, and remora sends no malformed HEAD.
        400 if !code.is_empty() => Error::Invalid(message),
        408 | 500..=599 => Error::Unavailable(message),
        _ => Error::Internal { message, source: None },
    }
}

/// Whether a provider has no credentials or is refused. A provider that timed out may do better later.
fn credentials_refused(error: &(dyn std::error::Error + 'static)) -> bool {
    chain(error)
        .filter_map(|error| error.downcast_ref::<CredentialsError>())
        .any(|error| !matches!(error, CredentialsError::ProviderTimedOut(_)))
}

/// An error and its sources in one line.
pub(super) fn causes(error: &(dyn std::error::Error + 'static)) -> String {
    chain(error).map(ToString::to_string).collect::<Vec<_>>().join(": ")
}

fn chain<'a>(error: &'a (dyn std::error::Error + 'static)) -> impl Iterator<Item = &'a (dyn std::error::Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_status_becomes_the_decision_it_asks_for() {
        let class = |status, code| match classify(status, code, String::new(), "key") {
            Error::NotFound(_) => "not found",
            Error::Precondition(_) => "precondition",
            Error::Denied(_) => "denied",
            Error::Invalid(_) => "invalid",
            Error::Unsupported(_) => "unsupported",
            Error::Exhausted(_) => "exhausted",
            Error::Unavailable(_) => "unavailable",
            Error::Internal { .. } => "internal",
        };
        for (status, code, expected) in [
            (404, "NoSuchKey", "not found"),
            (404, "", "not found"),
            (412, "PreconditionFailed", "precondition"),
            (409, "ConditionalRequestConflict", "precondition"),
            (409, "OperationAborted", "internal"),
            (403, "AccessDenied", "denied"),
            (403, "", "denied"),
            (400, "ExpiredToken", "denied"),
            (401, "", "denied"),
            (503, "SlowDown", "exhausted"),
            (429, "", "exhausted"),
            (507, "XMinioStorageFull", "exhausted"),
            (503, "ServiceUnavailable", "unavailable"),
            (500, "InternalError", "unavailable"),
            (400, "RequestTimeout", "unavailable"),
            (416, "InvalidRange", "invalid"),
            (400, "EntityTooSmall", "invalid"),
            (301, "PermanentRedirect", "invalid"),
            (400, "", "internal"),
            (418, "", "internal"),
            (501, "NotImplemented", "unsupported"),
            (501, "", "unsupported"),
            (400, "NotImplemented", "unsupported"),
        ] {
            assert_eq!(class(status, code), expected, "{status} {code}");
        }
    }
}
