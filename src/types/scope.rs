//! Where one cache is: a bucket, and the prefixes of BuildKit's native layout in it.

use std::fmt;

use super::{BucketName, Invalid, ManifestName};

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
    /// Where remora keeps the labels of blobs, below the scope's own prefix.
    pub const LABELS_PREFIX: &'static str = "labels/";
    /// What the names of objects and folders begin with that remora keeps for itself.
    const OWN: &'static str = ".remora";
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
    /// [`Invalid`] for a prefix that is too long or has control characters, or where blobs would be among labels.
    pub fn with_prefixes(bucket: BucketName, prefix: &str, blobs_prefix: &str, manifests_prefix: &str) -> Result<Self, Invalid> {
        for (what, value) in [("prefix", prefix), ("blobs_prefix", blobs_prefix), ("manifests_prefix", manifests_prefix)] {
            if value.len() > Self::MAX_PREFIX_BYTES || value.chars().any(char::is_control) {
                return Err(Invalid::new(what, value, "want at most 400 bytes without control characters"));
            }
        }
        if format!("{prefix}{blobs_prefix}").ends_with(Self::LABELS_PREFIX) {
            return Err(Invalid::new("blobs_prefix", blobs_prefix, "want one that does not end at 'labels/': remora keeps labels there"));
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

    /// Whether a manifest of this name has a key that manifests can have. Prefixes may lead anywhere, so the whole key
    /// decides.
    ///
    /// # Errors
    /// [`Invalid`] for a key that ends with a digest, as those of blobs and labels do, and for one of remora's own objects.
    pub fn check_manifest_key(&self, name: &ManifestName) -> Result<(), Invalid> {
        let key = format!("{}{}{name}", self.prefix, self.manifests_prefix);
        if ends_with_digest(&key) {
            return Err(Invalid::new("manifest key", &key, "want one that does not end with a digest, as the keys of blobs and labels do"));
        }
        if key.split('/').any(|part| part.starts_with(Self::OWN)) {
            return Err(Invalid::new("manifest key", &key, "want one without a part that begins with '.remora', which remora uses itself"));
        }
        Ok(())
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

/// Whether a key ends with the digest of something, by one of the algorithms that OCI registers.
fn ends_with_digest(key: &str) -> bool {
    key.rsplit_once(':').is_some_and(|(before, hex)| {
        let is_digest = |(algorithm, digits): (&str, usize)| before.ends_with(algorithm) && hex.len() == digits;
        [("sha256", 64), ("sha384", 96), ("sha512", 128)].into_iter().any(is_digest) && hex.bytes().all(|digit| digit.is_ascii_hexdigit())
    })
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s3://{}/{}", self.bucket, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::Digest;

    fn scope(prefix: &str, blobs: &str, manifests: &str) -> Result<Scope, Invalid> {
        Scope::with_prefixes("bucket".parse().unwrap(), prefix, blobs, manifests)
    }

    #[test]
    fn the_whole_key_of_a_manifest_decides() {
        let digest = Digest::of(b"x").to_string();
        let hex = digest.trim_start_matches("sha256:");
        for (prefix, manifests, name) in [
            ("", "blobs/", digest.as_str()),
            ("blobs/", "", &digest),
            ("", "b-", &digest),
            ("", "", &format!("labels/{digest}")),
            ("", "blobs/sha256:", hex),
            ("", "blobs/sha2", &format!("56:{hex}")),
            ("", "manifests/", &format!("sha512:{hex}{hex}")),
            ("", "", ".remora-check"),
            (".remora/", "tmp/", "x"),
        ] {
            let scope = scope(prefix, "blobs/", manifests).unwrap();
            assert!(scope.check_manifest_key(&name.parse().unwrap()).is_err(), "{prefix}{manifests}{name}");
        }
        for name in ["app", "sha256:x", "team/sha256:", &hex[1..], "remora", &format!("{digest}-main")] {
            assert!(scope("", "blobs/", "manifests/").unwrap().check_manifest_key(&name.parse().unwrap()).is_ok(), "{name}");
        }
    }

    #[test]
    fn no_prefix_leads_blobs_among_labels() {
        for (prefix, blobs) in [("", "labels/"), ("labels/", ""), ("team/", "x-labels/"), ("lab", "els/")] {
            assert!(scope(prefix, blobs, "manifests/").is_err(), "{prefix}{blobs}");
        }
        assert!(scope("labels/", "blobs/", "manifests/").is_ok());
    }
}
