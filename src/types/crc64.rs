//! Checksums of whole blobs, for bytes that were checked against their digest before.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use crc_fast::CrcAlgorithm::Crc64Nvme;

use super::Invalid;

/// A CRC-64/NVME, written as in S3's `x-amz-checksum-crc64nvme`: 8 bytes, big-endian, in base64.
///
/// It takes less than a fifteenth of the time of a digest. It detects accidental damage, but proves nothing against somebody
/// who has chosen the bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Crc64(u64);

impl FromStr for Crc64 {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bytes = BASE64_STANDARD.decode(text).ok().and_then(|bytes| bytes.try_into().ok());
        bytes.map(|bytes| Self(u64::from_be_bytes(bytes))).ok_or_else(|| Invalid::new("CRC-64", text, "want 8 bytes in base64"))
    }
}

impl fmt::Display for Crc64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&BASE64_STANDARD.encode(self.0.to_be_bytes()))
    }
}

impl fmt::Debug for Crc64 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Computes a [`Crc64`] from data that arrives in chunks.
#[derive(Debug, Clone)]
pub struct Crc64Hasher(crc_fast::Digest);

impl Default for Crc64Hasher {
    fn default() -> Self {
        Self(crc_fast::Digest::new(Crc64Nvme))
    }
}

impl Crc64Hasher {
    /// Takes the next chunk.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
    }

    /// The checksum of everything taken so far.
    #[must_use]
    pub fn finish(self) -> Crc64 {
        Crc64(self.0.finalize())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn crc(chunks: &[&[u8]]) -> Crc64 {
        let mut hasher = Crc64Hasher::default();
        chunks.iter().for_each(|chunk| hasher.update(chunk));
        hasher.finish()
    }

    #[test]
    fn it_is_the_one_of_s3_and_prints_as_there() {
        // The check value of CRC-64/NVME.
        assert_eq!(crc(&[b"123456789"]), Crc64(0xae8b_1486_0a79_9888));
        assert_eq!(crc(&[b"1234", b"", b"56789"]).to_string(), "rosUhgp5mIg=");
        assert_eq!("rosUhgp5mIg=".parse(), Ok(crc(&[b"123456789"])));
        for bad in ["", "rosUhgp5mIg", "rosUhgp5mIgA", "AAAA", "-"] {
            assert!(bad.parse::<Crc64>().is_err(), "{bad}");
        }
    }
}
