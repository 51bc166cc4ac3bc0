//! The body of an object or part, which s3s does not get to see where it would hash it.
//!
//! A request's signature covers the SHA-256 of its body, and s3s computes that of every body it hands on.
//! A blob is held against its digest anyway, which the signature covers as a part of the key: hashing it twice
//! was a quarter of the CPU time of an export (perf). So such a body goes past s3s to the operation, in the
//! request's extensions, and a manifest is held against the signed sum with its [other sums](super::checksum).

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt as _, TryStreamExt as _};
use http::{Method, Request};
use http_body_util::BodyExt as _;
use s3s::dto::StreamingBlob;
use s3s::{Body, S3Request};

use super::checksum::Announced;
use super::unread::Read;
use crate::cache::{Error, Incoming};
use crate::metrics::{Endpoint, Metrics};

/// The header with the signed sum, or with a word for a body that is signed otherwise or not at all.
pub(super) const SIGNED_SUM: &str = "x-amz-content-sha256";
/// What a client says beside the key when it sends an object or a part. With anything else the body may be
/// one that s3s parses.
const PARAMETERS: [&str; 3] = ["partNumber", "uploadId", "x-id"];

/// What a request sends for an object or part, and what it announces of it.
pub(super) struct Payload {
    /// What arrives, not held against any sum.
    pub(super) body: Incoming,
    announced: Announced,
}

/// A body on its way past s3s.
#[derive(Clone)]
struct Unseen(Arc<Mutex<Option<Read>>>);

impl Payload {
    /// That of `request`, whose body s3s has handed on as `seen` if it got to see it.
    pub(super) fn of<T>(request: &mut S3Request<T>, seen: Option<StreamingBlob>, metrics: &Metrics) -> Self {
        let unseen =
            request.extensions.remove::<Unseen>().and_then(|unseen| unseen.0.lock().unwrap_or_else(PoisonError::into_inner).take());
        let broken = |error: &dyn std::fmt::Display| Error::Invalid(format!("the body of the request: {error}"));
        let body: Incoming = match (unseen, seen) {
            (Some(unseen), _) => Box::pin(unseen.into_data_stream().map_err(move |error| broken(&error))),
            (None, Some(seen)) => Box::pin(seen.map_err(move |error| broken(&error))),
            (None, None) => Box::pin(futures_util::stream::empty()),
        };
        let metrics = metrics.clone();
        let body = body.inspect_ok(move |piece| metrics.received(Endpoint::S3, piece.len() as u64)).boxed();
        Self { body, announced: Announced::new(&request.headers, request.trailing_headers.take()) }
    }

    /// The body, which ends in an error where it is not what was announced.
    pub(super) fn checked(self) -> Incoming {
        self.announced.checked(self.body)
    }
}

/// The request for s3s: without its body, where that is an object or part with a signed sum.
pub(super) fn past_s3s(request: Request<Read>) -> Request<Body> {
    if !is_object(&request) {
        return request.map(Body::http_body_unsync);
    }
    let (mut head, body) = request.into_parts();
    head.extensions.insert(Unseen(Arc::new(Mutex::new(Some(body)))));
    Request::from_parts(head, Body::empty())
}

fn is_object<B>(request: &Request<B>) -> bool {
    let query = request.uri().query().unwrap_or_default();
    let mut names = query.split('&').map(|parameter| parameter.split('=').next().unwrap_or_default());
    request.method() == Method::PUT
        && request.headers().get(SIGNED_SUM).is_some_and(|sum| is_sum(sum.as_bytes()))
        && names.all(|name| name.is_empty() || PARAMETERS.contains(&name))
}

/// Whether a value of [`SIGNED_SUM`] is a sum: in hexadecimal, of small letters.
pub(super) fn is_sum(value: &[u8]) -> bool {
    value.len() == 64 && value.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_objects_and_parts_with_a_signed_sum_go_past() {
        let sum = "0".repeat(64);
        let goes_past = |method: Method, uri: &str, sum: &str| {
            is_object(&Request::builder().method(method).uri(uri).header(SIGNED_SUM, sum).body(()).unwrap())
        };
        assert!(goes_past(Method::PUT, "/b/k", &sum) && goes_past(Method::PUT, "/b/k?x-id=PutObject", &sum));
        assert!(goes_past(Method::PUT, "/b/k?partNumber=1&uploadId=x&x-id=UploadPart", &sum));
        assert!(!goes_past(Method::PUT, "/b/k?tagging", &sum) && !goes_past(Method::POST, "/b/k?uploadId=x", &sum));
        assert!(!goes_past(Method::PUT, "/b/k", "UNSIGNED-PAYLOAD"));
        assert!(!goes_past(Method::PUT, "/b/k", "STREAMING-AWS4-HMAC-SHA256-PAYLOAD"));
    }
}
