//! The body of an object or part. Where s3s would hash it, s3s does not get to see it.
//!
//! A request's signature covers the SHA-256 of its body, and s3s computes that of every body that it hands on. A blob is
//! checked against its digest anyway, which the signature covers as a part of the key. Hashing it twice took a quarter of
//! the CPU time of an export (measured with perf). So such a body goes past s3s to the operation, in the request's
//! extensions. The body of a manifest is checked against the signed sum together with its
//! [other checksums](super::checksum).

use std::sync::{Arc, Mutex, PoisonError};

use futures_util::{StreamExt as _, TryStreamExt as _};
use http::{Method, Request};
use http_body_util::BodyExt as _;
use s3s::dto::StreamingBlob;
use s3s::{Body, S3Request};

use super::checksum::{Announced, SIGNED_SUM, is_sum};
use super::unread::TrackedBody;
use crate::cache::{Error, Incoming};
use crate::metrics::{Endpoint, Metrics};

/// The query parameters of a request that sends an object or a part. With any other parameter the body may be one that s3s
/// parses.
const PARAMETERS: [&str; 3] = ["partNumber", "uploadId", "x-id"];

/// The body of a request that sends an object or a part, and the checksums that the request announces for it.
pub(super) struct RequestBody {
    /// The bytes as they arrive, not checked against any checksum.
    pub(super) body: Incoming,
    announced: Announced,
}

/// A body on its way past s3s.
#[derive(Clone)]
struct Unseen(Arc<Mutex<Option<TrackedBody>>>);

impl RequestBody {
    /// The body of `request`. `seen` is what s3s has handed on, if it got to see the body.
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
        let body = body.inspect_ok(move |chunk| metrics.received(Endpoint::S3, chunk.len() as u64)).boxed();
        Self { body, announced: Announced::new(&request.headers, request.trailing_headers.take()) }
    }

    /// The bytes. They end in an error where they are not what was announced.
    pub(super) fn checked(self) -> Incoming {
        self.announced.checked(self.body)
    }
}

/// The request for s3s. Where its body is an object or a part with a signed sum, s3s gets an empty one.
pub(super) fn past_s3s(request: Request<TrackedBody>) -> Request<Body> {
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
