//! Checksums that a client announces for a body, in a header or in the trailer of `aws-chunked`.
//!
//! s3s reads them and checks that they are signed, but does not compute them. It computes the SHA-256 that the signature
//! itself covers, but only where it sees the body, which it mostly does not. Only manifests are checked against them: a
//! blob is checked against its digest, which proves more than any of these.

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use futures_util::{StreamExt, stream};
use http::HeaderMap;
use s3s::TrailingHeaders;
use s3s::checksum::ChecksumHasher;
use s3s::dto::Checksum;

use crate::cache::{Error, Incoming};

/// The header with the SHA-256 that the signature covers, or with a word for a body that is signed in another way or not
/// at all.
pub(super) const SIGNED_SUM: &str = "x-amz-content-sha256";

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

/// The checksums that a request announces for its body.
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

    /// The same body. It ends in an error where it is not what was announced.
    pub(super) fn checked(self, body: Incoming) -> Incoming {
        let mut hasher = ChecksumHasher::default();
        self.algorithms().for_each(|algorithm| (algorithm.begin)(&mut hasher));
        Box::pin(stream::unfold(Some((body, hasher, self)), |state| async move {
            let (mut body, mut hasher, announced) = state?;
            match body.next().await {
                Some(Ok(chunk)) => {
                    hasher.update(&chunk);
                    Some((Ok(chunk), Some((body, hasher, announced))))
                }
                Some(Err(error)) => Some((Err(error), None)),
                None => announced.verify(&hasher.finalize()).err().map(|error| (Err(error), None)),
            }
        }))
    }

    /// The algorithms of the announced checksums.
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

/// Whether a value of [`SIGNED_SUM`] is a checksum: 64 lowercase hex digits.
pub(super) fn is_sum(value: &[u8]) -> bool {
    value.len() == 64 && value.iter().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}
