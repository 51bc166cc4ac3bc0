//! The URL of the store: a directory, or a bucket in S3.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use crate::types::{BucketName, Invalid};

/// `file:///dir` or `s3://bucket[/prefix]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum StoreUrl {
    /// An absolute path.
    Directory(PathBuf),
    Bucket {
        name: BucketName,
        /// Empty, or with a slash at its end, since in a URL it is a folder.
        prefix: String,
    },
}

impl FromStr for StoreUrl {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refuse = |shown: &str, allowed| Err(Invalid::new("store URL", shown, allowed));
        if let Some(path) = text.strip_prefix("file://") {
            return if path.starts_with('/') { Ok(Self::Directory(path.into())) } else { refuse(text, "want file:///absolute/path") };
        }
        let Some(rest) = text.strip_prefix("s3://") else { return refuse(text, "want file:///dir or s3://bucket[/prefix]") };
        if rest.contains(['@', '?', '#']) {
            // These may be credentials, which must not be shown.
            return refuse("s3://…", "want s3://bucket[/prefix]; credentials and options belong in [[buckets]]");
        }
        let (bucket, prefix) = rest.split_once('/').unwrap_or((rest, ""));
        let prefix = prefix.trim_end_matches('/');
        let prefix = if prefix.is_empty() { String::new() } else { format!("{prefix}/") };
        Ok(Self::Bucket { name: bucket.parse()?, prefix })
    }
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Directory(path) => write!(f, "file://{}", path.display()),
            Self::Bucket { name, prefix } if prefix.is_empty() => write!(f, "s3://{name}"),
            Self::Bucket { name, prefix } => write!(f, "s3://{name}/{prefix}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_both_kinds_and_hides_credentials() {
        for (text, printed) in
            [("file:///x", "file:///x"), ("s3://abc", "s3://abc"), ("s3://abc/a/b", "s3://abc/a/b/"), ("s3://abc/", "s3://abc")]
        {
            assert_eq!(text.parse::<StoreUrl>().unwrap().to_string(), printed);
        }
        for bad in ["", "/x", "file://x", "s3://", "s3://A", "gs://abc"] {
            assert!(bad.parse::<StoreUrl>().is_err(), "{bad}");
        }
        let error = "s3://AKIA:hidden@abc".parse::<StoreUrl>().unwrap_err().to_string();
        assert!(!error.contains("hidden"), "{error}");
    }
}
