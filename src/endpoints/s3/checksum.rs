//! Checksums that a client announces for a body, in a header or in the trailer of `aws-chunked`.
//!
//! s3s reads them and checks their signature, but not their sums, and of the SHA-256 in the signature itself
//! only where it sees the body (see [`request_body`](super::request_body)). Manifests alone are held against them: a
//! blob's digest says more than any of these.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::{StreamExt, stream};
use http::HeaderMap;
use s3s::TrailingHeaders;
use s3s::checksum::ChecksumHasher;
use s3s::dto::Checksum;

use super::request_body::{SIGNED_SUM, is_sum};
use crate::cache::{Error, Incoming};

/// One algorithm: its header, how to begin, and its sum.
struct Algorithm {
    header: &'static str,
    begin: fn(&mut ChecksumHasher),
    sum: fn(&Checksum) -> Option<String>,
}

const ALGORITHMS: [Algorithm; 6] = [
    Algorithm {
        header: SIGNED_SUM,
        begin: |hasher| hasher.sha256 = Some(s3s::crypto::Sha256::default()),
        sum: |sums| sums.checksum_sha256.as_ref().and_then(|sum| BASE64_STANDARD.decode(sum).ok()).map(hex::encode),
    },
    Algorithm {
        header: "x-amz-checksum-crc32",
        begin: |hasher| hasher.crc32 = Some(s3s::crypto::Crc32::default()),
        sum: |sums| sums.checksum_crc32.clone(),
    },
    Algorithm {
        header: "x-amz-checksum-crc32c",
        begin: |hasher| hasher.crc32c = Some(s3s::crypto::Crc32c::default()),
        sum: |sums| sums.checksum_crc32c.clone(),
    },
    Algorithm {
        header: "x-amz-checksum-crc64nvme",
        begin: |hasher| hasher.crc64nvme = Some(s3s::crypto::Crc64Nvme::default()),
        sum: |sums| sums.checksum_crc64nvme.clone(),
    },
    Algorithm {
        header: "x-amz-checksum-sha1",
        begin: |hasher| hasher.sha1 = Some(s3s::crypto::Sha1::default()),
        sum: |sums| sums.checksum_sha1.clone(),
    },
    Algorithm {
        header: "x-amz-checksum-sha256",
        begin: |hasher| hasher.sha256 = Some(s3s::crypto::Sha256::default()),
        sum: |sums| sums.checksum_sha256.clone(),
    },
];

/// What a request announces of its body.
pub(super) struct Announced {
    headers: HeaderMap,
    trailers: Option<TrailingHeaders>,
}

impl Announced {
    /// From a request's headers and the place where s3s puts its trailers.
    pub(super) fn new(headers: &HeaderMap, trailers: Option<TrailingHeaders>) -> Self {
        let sums = headers.iter().filter(|(name, value)| match name.as_str() {
            SIGNED_SUM => is_sum(value.as_bytes()),
            name => name.starts_with("x-amz-checksum-") || name == "x-amz-trailer",
        });
        Self { headers: sums.map(|(name, value)| (name.clone(), value.clone())).collect(), trailers }
    }

    /// The same body, which ends in an error where it is not what was announced.
    pub(super) fn checked(self, body: Incoming) -> Incoming {
        let mut hasher = ChecksumHasher::default();
        self.algorithms().for_each(|algorithm| (algorithm.begin)(&mut hasher));
        Box::pin(stream::unfold(Some((body, hasher, self)), |state| async move {
            let (mut body, mut hasher, announced) = state?;
            match body.next().await {
                Some(Ok(piece)) => {
                    hasher.update(&piece);
                    Some((Ok(piece), Some((body, hasher, announced))))
                }
                Some(Err(error)) => Some((Err(error), None)),
                None => announced.verify(&hasher.finalize()).err().map(|error| (Err(error), None)),
            }
        }))
    }

    /// Those of the sums that are announced.
    fn algorithms(&self) -> impl Iterator<Item = &'static Algorithm> {
        let trailer = self.headers.get("x-amz-trailer").and_then(|names| names.to_str().ok()).unwrap_or_default();
        let in_trailer = move |header: &str| trailer.split(',').any(|name| name.trim() == header);
        ALGORITHMS.iter().filter(move |algorithm| self.headers.contains_key(algorithm.header) || in_trailer(algorithm.header))
    }

    fn verify(&self, sums: &Checksum) -> Result<(), Error> {
        let trailers = self.trailers.as_ref().and_then(TrailingHeaders::take).unwrap_or_default();
        for algorithm in self.algorithms() {
            let actual = (algorithm.sum)(sums).unwrap_or_default();
            let announced = self.headers.get(algorithm.header).or_else(|| trailers.get(algorithm.header));
            if announced.is_none_or(|announced| announced.as_bytes() != actual.as_bytes()) {
                return Err(Error::Precondition(format!("{} of what arrived is {actual}, another was announced", algorithm.header)));
            }
        }
        Ok(())
    }
}
