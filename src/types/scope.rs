//! Where one cache is: a bucket, and the prefixes of BuildKit's native layout in it.

use std::fmt;

use super::{BucketName, Invalid};

/// A bucket and the three prefixes of a `type=s3` cache.
///
/// Prefixes are joined as they are (`prefix` + `blobs_prefix` + digest), without adding a slash, since BuildKit's own client
/// does so and its objects must be found.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Scope {
    bucket: BucketName,
    prefix: String,
    blobs_prefix: String,
    manifests_prefix: String,
}

impl Scope {
    /// BuildKit's default `blobs_prefix`.
    pub const BLOBS_PREFIX: &'static str = "blobs/";
    /// BuildKit's default `manifests_prefix`.
    pub const MANIFESTS_PREFIX: &'static str = "manifests/";
    /// S3 keys have at most 1024 bytes; three prefixes and a name or digest must fit.
    const MAX_PREFIX_BYTES: usize = 400;

    /// The scope of `prefix` in `bucket`, with BuildKit's default blob and manifest prefixes.
    ///
    /// # Errors
    /// [`Invalid`] for a prefix that is too long or has control characters.
    pub fn new(bucket: BucketName, prefix: &str) -> Result<Self, Invalid> {
        Self::with_prefixes(bucket, prefix, Self::BLOBS_PREFIX, Self::MANIFESTS_PREFIX)
    }

    /// The scope with all three prefixes given.
    ///
    /// # Errors
    /// [`Invalid`] for a prefix that is too long or has control characters.
    pub fn with_prefixes(bucket: BucketName, prefix: &str, blobs_prefix: &str, manifests_prefix: &str) -> Result<Self, Invalid> {
        for (what, value) in [("prefix", prefix), ("blobs_prefix", blobs_prefix), ("manifests_prefix", manifests_prefix)] {
            if value.len() > Self::MAX_PREFIX_BYTES || value.chars().any(char::is_control) {
                return Err(Invalid::new(what, value, "want at most 400 bytes without control characters"));
            }
        }
        Ok(Self { bucket, prefix: prefix.to_owned(), blobs_prefix: blobs_prefix.to_owned(), manifests_prefix: manifests_prefix.to_owned() })
    }

    /// The bucket.
    #[must_use]
    pub fn bucket(&self) -> &BucketName {
        &self.bucket
    }

    /// The prefix that all keys of the cache share; may be empty.
    #[must_use]
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The prefix of blobs, below [`Self::prefix`].
    #[must_use]
    pub fn blobs_prefix(&self) -> &str {
        &self.blobs_prefix
    }

    /// The prefix of manifests, below [`Self::prefix`].
    #[must_use]
    pub fn manifests_prefix(&self) -> &str {
        &self.manifests_prefix
    }

    /// The same layout under a longer prefix.
    ///
    /// # Errors
    /// [`Invalid`] where the prefix becomes too long or has control characters.
    pub fn below(&self, more: &str) -> Result<Self, Invalid> {
        let prefix = format!("{}{more}", self.prefix);
        Self::with_prefixes(self.bucket.clone(), &prefix, &self.blobs_prefix, &self.manifests_prefix)
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix)
    }
}
