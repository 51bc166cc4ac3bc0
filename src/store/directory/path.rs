//! Keys as paths: unique, safe on any Linux file system, and readable for ordinary keys.
//!
//! Each folder of a key is a folder, and its leaf is one file, in whose name slashes are written as `%2F`. `%`, NUL, `.`,
//! `..` and empty names are encoded, so that they can be told apart and never leave the bucket.

use std::ffi::OsStr;
use std::path::PathBuf;

use crate::store::{Error, Result};
use crate::types::Key;

/// `NAME_MAX` of Linux's file systems.
const NAME_MAX_BYTES: usize = 255;

/// The path of `key` below its bucket's folder.
///
/// # Errors
/// [`Error::Invalid`] for a name that is too long for a file system.
pub(super) fn relative(key: &Key) -> Result<PathBuf> {
    let folders = key.folder().strip_suffix('/').map(|folder| folder.split('/'));
    folders.into_iter().flatten().chain([key.leaf()]).map(|name| fitting(key, encode(name))).collect()
}

fn fitting(key: &Key, name: String) -> Result<String> {
    if name.len() <= NAME_MAX_BYTES {
        Ok(name)
    } else {
        Err(Error::Invalid(format!("key {key}: a directory store takes names of up to {NAME_MAX_BYTES} bytes, this has {}", name.len())))
    }
}

fn encode(name: &str) -> String {
    match name {
        "" => "%".to_owned(),
        "." => "%2E".to_owned(),
        ".." => "%2E%2E".to_owned(),
        _ => name.replace('%', "%25").replace('/', "%2F").replace('\0', "%00"),
    }
}

/// The name that [`encode`] wrote as `file_name`; `None` for a file that is not ours.
pub(super) fn decode(file_name: &OsStr) -> Option<String> {
    let text = file_name.to_str()?;
    let name = match text {
        "%" => String::new(),
        _ => text.replace("%2F", "/").replace("%2E", ".").replace("%00", "\0").replace("%25", "%"),
    };
    (encode(&name) == text).then_some(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(folder: &str, leaf: &str) -> String {
        relative(&Key::new(folder, leaf)).unwrap().to_str().unwrap().to_owned()
    }

    #[test]
    fn plain_keys_are_plain_paths_and_odd_ones_stay_inside() {
        for (folder, leaf, expected) in [
            ("blobs/", "sha256:00", "blobs/sha256:00"),
            ("manifests/", "app", "manifests/app"),
            ("manifests/", "app/next", "manifests/app%2Fnext"),
            ("", "app", "app"),
            ("../../", "..", "%2E%2E/%2E%2E/%2E%2E"),
            ("/", "etc/passwd", "%/etc%2Fpasswd"),
            ("a//b/./", "", "a/%/b/%2E/%"),
            ("", "100%", "100%25"),
            ("", "%2F", "%252F"),
            ("pre", "fix", "prefix"),
        ] {
            assert_eq!(path(folder, leaf), expected);
        }
    }

    #[test]
    fn decoding_undoes_encoding_and_knows_foreign_files() {
        for name in ["", ".", "..", "...", "%", "%%", "%2F", "%252F", "a/b", "/", "a\0b", "%00", "é 日本", "%2E", "a%", "%25"] {
            assert_eq!(decode(OsStr::new(&encode(name))).as_deref(), Some(name));
        }
        for foreign in ["50%", "%2e", "%41", "x%2E", "a%%"] {
            assert_eq!(decode(OsStr::new(foreign)), None, "{foreign}");
        }
    }

    #[test]
    fn a_name_that_is_too_long_says_so() {
        let error = relative(&Key::new("", &"/".repeat(100))).unwrap_err();
        assert_eq!(error.to_string().split(": ").last(), Some("a directory store takes names of up to 255 bytes, this has 300"));
    }
}
