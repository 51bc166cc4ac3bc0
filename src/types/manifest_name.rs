//! Names of cache manifests: the `name=` attribute of `type=s3`.

use std::fmt;
use std::str::FromStr;

use super::Invalid;

/// The name of a cache manifest. It may contain slashes (`team/app`), as BuildKit's own client allows.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct ManifestName(String);

impl ManifestName {
    /// What BuildKit uses where the build gives no `name=` (`cache/remotecache/s3`, v0.33).
    pub const DEFAULT: &'static str = "buildkit";

    /// Long enough for any branch name, short enough for an S3 key with a long prefix.
    const MAX_BYTES: usize = 512;

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for ManifestName {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let valid = !text.is_empty()
            && text.len() <= Self::MAX_BYTES
            && !text.chars().any(char::is_control)
            && !text.split('/').any(|part| part == "." || part == "..");
        if valid {
            Ok(Self(text.to_owned()))
        } else {
            Err(Invalid::new(
                "manifest name",
                text,
                "want 1 to 512 bytes without control characters and without '.' or '..' between slashes",
            ))
        }
    }
}

impl fmt::Display for ManifestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
