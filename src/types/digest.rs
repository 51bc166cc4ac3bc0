//! Content digests. BuildKit names every blob by its SHA-256.

use std::fmt;
use std::str::FromStr;

use sha2::{Digest as _, Sha256};

use super::{Crc64, Crc64Hasher, Invalid};

/// A SHA-256 content digest, written `sha256:` and 64 lowercase hex digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Digest([u8; 32]);

impl Digest {
    /// The digest of `data`.
    #[must_use]
    pub fn of(data: &[u8]) -> Self {
        let mut hasher = Hasher::default();
        hasher.update(data);
        hasher.finish().digest
    }

    /// Where it lies among all digests, from 0 to 2^64. Digests are spread evenly and listed in this order.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.0.iter().take(8).fold(0, |position, &byte| position << 8 | u64::from(byte))
    }
}

impl FromStr for Digest {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refuse = || Invalid::new("digest", text, "want sha256: and 64 lowercase hex digits");
        let encoded = text.strip_prefix("sha256:").ok_or_else(refuse)?;
        if encoded.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(refuse());
        }
        let mut bytes = [0; 32];
        hex::decode_to_slice(encoded, &mut bytes).map_err(|_| refuse())?;
        Ok(Self(bytes))
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", hex::encode(self.0))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The digest and the checksum of the same bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sums {
    /// Proves which bytes they are.
    pub digest: Digest,
    /// A cheap way to see later whether the bytes are still the same.
    pub crc: Crc64,
}

/// Computes [`Sums`] from data that arrives in chunks.
#[derive(Clone, Default)]
pub struct Hasher(Sha256, Crc64Hasher);

impl Hasher {
    /// Takes the next chunk.
    pub fn update(&mut self, data: &[u8]) {
        self.0.update(data);
        self.1.update(data);
    }

    /// The sums of everything taken so far.
    #[must_use]
    pub fn finish(self) -> Sums {
        Sums { digest: Digest(self.0.finalize().into()), crc: self.1.finish() }
    }
}

impl fmt::Debug for Hasher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hasher")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_and_prints_back() {
        let digest = Digest::of(b"");
        let text = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(digest.to_string(), text);
        assert_eq!(text.parse(), Ok(digest));
    }

    #[test]
    fn refuses_what_is_not_a_sha256() {
        let good = Digest::of(b"x").to_string();
        let upper = good.replace("sha256:", "").to_uppercase();
        for bad in [
            "",
            "sha256:",
            "sha256:../../etc/passwd",
            "sha512:00",
            &good[7..],
            &good[..70],
            &format!("sha256:{upper}"),
            &format!("{good}0"),
        ] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
