//! Bucket names.

use std::fmt;
use std::net::Ipv4Addr;
use std::str::FromStr;

use super::Invalid;

/// A valid S3 bucket name, hence also a safe name for a folder.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct BucketName(String);

impl BucketName {
    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BucketName {
    type Err = Invalid;

    /// The rules of the S3 user guide: 3 to 63 characters of `a-z 0-9 . -`, a letter or digit at both
    /// ends, no two dots in a row, not shaped like an IP address. (MinIO and others also take `_`.)
    fn from_str(text: &str) -> Result<Self, Invalid> {
        let plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let valid = (3..=63).contains(&bytes.len())
            && bytes.iter().all(|&byte| plain(byte) || matches!(byte, b'.' | b'-' | b'_'))
            && bytes.first().is_some_and(|&byte| plain(byte))
            && bytes.last().is_some_and(|&byte| plain(byte))
            && !text.contains("..")
            && text.parse::<Ipv4Addr>().is_err();
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(Invalid::new(
                "bucket name",
                text,
                "want 3 to 63 characters of a-z, 0-9, '.', '-' and '_', a letter or digit at both ends, no '..', not an IP address",
            ))
        }
    }
}

impl fmt::Display for BucketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accepts_the_names_of_s3_and_refuses_paths() {
        for good in ["my_bucket", "abc", "a.b-c", "0bucket9"] {
            assert!(good.parse::<BucketName>().is_ok(), "{good}");
        }
        let long = "a".repeat(64);
        for bad in ["", "ab", "..", "a..b", "../x", "a/b", "Abc", ".abc", "abc-", "10.0.0.1", "a b", &long] {
            assert!(bad.parse::<BucketName>().is_err(), "{bad}");
        }
    }
}
