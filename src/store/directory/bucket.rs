//! The folder of a bucket, and access to the files in it.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::error::{is_absence, refusal};
use super::path;
use crate::store::{Error, Result};
use crate::types::{BucketName, Key};

/// A bucket that is a folder.
#[derive(Debug, Clone)]
pub struct Directory {
    root: PathBuf,
    bucket: BucketName,
}

impl Directory {
    /// The bucket `name` below `root`. Nothing is made before the first write.
    #[must_use]
    pub fn new(root: &Path, name: &BucketName) -> Self {
        Self { root: root.to_owned(), bucket: name.clone() }
    }

    pub(super) fn bucket_dir(&self) -> PathBuf {
        self.root.join(self.bucket.as_str())
    }

    /// The folder for files that are not objects. No bucket's name begins with a dot.
    pub(super) fn state_dir(&self, name: &str) -> PathBuf {
        self.root.join(".remora").join(name)
    }

    /// Runs `work` on a thread that may block.
    pub(super) async fn blocking<T: Send + 'static>(&self, work: impl FnOnce(&Self) -> Result<T> + Send + 'static) -> Result<T> {
        let this = self.clone();
        finished(tokio::task::spawn_blocking(move || work(&this)).await)
    }

    /// The path of an object.
    pub(super) fn path(&self, key: &Key) -> Result<PathBuf> {
        Ok(self.bucket_dir().join(path::relative(key)?))
    }

    pub(super) fn open(&self, key: &Key) -> Result<(PathBuf, File)> {
        let path = self.path(key)?;
        match File::open(&path).and_then(|file| file.metadata().map(|meta| meta.is_file().then_some(file))) {
            Ok(Some(file)) => Ok((path, file)),
            Ok(None) => Err(Error::NotFound(key.to_string())),
            Err(error) if is_absence(&error) => Err(Error::NotFound(key.to_string())),
            Err(error) => Err(refusal("read", &path, error)),
        }
    }
}

/// The outcome of a task on a thread that may block.
pub(super) fn finished<T>(outcome: Result<Result<T>, tokio::task::JoinError>) -> Result<T> {
    outcome.unwrap_or_else(|error| Err(Error::Internal { message: "a disk task broke off".to_owned(), source: Some(Arc::new(error)) }))
}
