//! Object keys.

use std::fmt;

/// The key of one object in a bucket: a folder part and a leaf.
///
/// S3 gets the two joined. The directory store makes folders from the first and one file name from the second, so that the
/// manifests `app` and `app/next` can exist side by side. Only `cache::layout` builds keys.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    text: String,
    leaf: usize,
}

impl Key {
    /// Joins `folder` (a prefix, usually with a slash at its end) and `leaf`.
    #[must_use]
    pub fn new(folder: &str, leaf: &str) -> Self {
        // What follows the last slash of the prefix belongs to the file name.
        let start = folder.rfind('/').map_or(0, |slash| slash + 1);
        Self { text: format!("{folder}{leaf}"), leaf: start }
    }

    /// The whole key, as S3 has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The part up to and including the folder's last slash; may be empty.
    #[must_use]
    pub fn folder(&self) -> &str {
        &self.text[..self.leaf]
    }

    /// The part behind that. It may contain slashes, which are part of a name and do not separate folders.
    #[must_use]
    pub fn leaf(&self) -> &str {
        &self.text[self.leaf..]
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.text, f)
    }
}
