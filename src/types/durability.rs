//! How far an export has to get before the build is told that it is done.

use std::fmt;
use std::str::FromStr;

use super::Invalid;

/// Where an acknowledged write is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Durability {
    /// In the store.
    #[default]
    S3,
    /// On remora's own disk. The store gets it later.
    Local,
}

impl FromStr for Durability {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        match text {
            "s3" => Ok(Self::S3),
            "local" => Ok(Self::Local),
            _ => Err(Invalid::new("durability", text, "want s3 or local")),
        }
    }
}

impl fmt::Display for Durability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::S3 => "s3",
            Self::Local => "local",
        })
    }
}
