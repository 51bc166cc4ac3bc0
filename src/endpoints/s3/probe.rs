//! The reachability probe: a path with a nonce in it, which answers anybody with that nonce.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, header};
use s3s::{Body, HttpResponse};

/// No bucket's name begins with a dot, so this path hides no object.
const PATH: &str = "/.remora/probe/";
/// The answer repeats what an unknown caller has sent, so the nonce must be short and plain.
const MAX_NONCE_CHARS: usize = 64;

/// The nonce, where `request` is a probe.
pub(super) fn nonce<B>(request: &Request<B>) -> Option<Bytes> {
    let nonce = request.uri().path().strip_prefix(PATH)?;
    let plain = nonce.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
    let valid = (1..=MAX_NONCE_CHARS).contains(&nonce.len()) && plain && request.method() == Method::GET;
    valid.then(|| Bytes::copy_from_slice(nonce.as_bytes()))
}

/// The answer to a probe.
pub(super) fn answer(nonce: Bytes) -> HttpResponse {
    let mut response = HttpResponse::new(Body::from(nonce));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
