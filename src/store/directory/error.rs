//! Errors of the operating system as errors of the store.

use std::io;
use std::path::Path;
use std::sync::Arc;

use rustix::io::Errno;

use crate::store::Error;

/// The error of the store for `action` on `path`, which has failed.
pub(super) fn refusal(action: &str, path: &Path, error: io::Error) -> Error {
    let path = path.display();
    match Errno::from_io_error(&error) {
        Some(Errno::NOSPC | Errno::DQUOT) => Error::Exhausted(format!("no space left to {action} {path}")),
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM | Errno::MLINK) => Error::Exhausted(format!("cannot {action} {path}: {error}")),
        Some(Errno::ROFS | Errno::ACCESS | Errno::PERM) => Error::Denied(format!("cannot {action} {path}: {error}")),
        Some(Errno::NOTDIR | Errno::ISDIR) => {
            Error::Invalid(format!("cannot {action} {path}: a directory store cannot hold an object and a folder of one name ({error})"))
        }
        Some(Errno::NAMETOOLONG) => Error::Invalid(format!("cannot {action} {path}: {error}")),
        Some(Errno::XDEV) => Error::Invalid(format!("cannot {action} {path}: a directory store must lie in one file system ({error})")),
        Some(Errno::NOENT) => Error::NotFound(path.to_string()),
        _ => Error::Internal { message: format!("cannot {action} {path}: {error}"), source: Some(Arc::new(error)) },
    }
}

/// Whether there is no such file, also where a file stands in for one of its folders.
pub(super) fn is_absence(error: &io::Error) -> bool {
    matches!(Errno::from_io_error(error), Some(Errno::NOENT | Errno::NOTDIR | Errno::ISDIR))
}
