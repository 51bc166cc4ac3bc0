//! Multipart uploads that a process leaves when it is killed: S3 keeps their parts, and bills them, until
//! somebody aborts them.
//!
//! A small file for each, from its begin to its end, lets the next start do that.

use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::store::{MultipartId, Stores};
use crate::types::{BucketName, Key};

/// The names of the files begin so.
const PREFIX: &str = "multipart-";

/// A multipart upload, as its file has it.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    bucket: String,
    folder: String,
    leaf: String,
    id: String,
}

/// The file of an upload that has begun.
#[derive(Debug)]
pub(super) struct Reminder(PathBuf);

impl Reminder {
    pub(super) async fn write(dir: &Path, bucket: &BucketName, key: &Key, id: &MultipartId) -> io::Result<Self> {
        let record = Record { bucket: bucket.to_string(), folder: key.folder().to_owned(), leaf: key.leaf().to_owned(), id: id.0.clone() };
        let path = dir.join(format!("{PREFIX}{:032x}.json", rand::random::<u128>()));
        tokio::fs::write(&path, serde_json::to_vec(&record)?).await?;
        Ok(Self(path))
    }

    /// The upload is at its end.
    pub(super) fn remove(&self) {
        if let Err(error) = std::fs::remove_file(&self.0)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.0.display(), %error, "could not remove the reminder of an upload");
        }
    }
}

/// What earlier processes left.
pub(super) async fn find(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let (mut entries, mut found) = (tokio::fs::read_dir(dir).await?, Vec::new());
    while let Some(entry) = entries.next_entry().await? {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Aborts them. One that cannot be aborted now is left for the next start.
pub(super) async fn abort(paths: Vec<PathBuf>, stores: Stores) {
    for path in paths {
        let aborted = async {
            let record: Record = serde_json::from_slice(&tokio::fs::read(&path).await.map_err(text)?).map_err(text)?;
            let store = stores.bucket(&record.bucket.parse().map_err(text)?).map_err(text)?.store;
            store.abort_multipart(&Key::new(&record.folder, &record.leaf), &MultipartId(record.id)).await.map_err(text)
        };
        match aborted.await {
            Ok(()) => {
                tracing::info!(path = %path.display(), "aborted a multipart upload of an earlier run");
                Reminder(path).remove();
            }
            Err(error) => tracing::warn!(path = %path.display(), %error, "could not abort a multipart upload of an earlier run"),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn text(error: impl ToString) -> String {
    error.to_string()
}
