//! Orphans: multipart uploads that a killed process has left behind. S3 keeps their parts, and bills for them, until
//! somebody aborts them.
//!
//! A small file for each upload lets the next start do that. The file is written before the store hears of the upload,
//! and gets the upload's id as soon as the store has answered. If the process was killed between the two, the next start
//! finds the upload by its key and by when it was begun. An upload of the very same blob that another remora began in the
//! same moments is then aborted, too: its exporter sends the parts again or drops its export.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio_util::sync::DropGuard;

use crate::store::{GuardedStore, MultipartId, Stores};
use crate::types::{BucketName, Key};

/// How the names of the files begin.
const PREFIX: &str = "multipart-";
/// How the name of a file begins while it is being written. The spool removes such files at the next start.
const UNWRITTEN: &str = "tmp-";
/// How far the store's clock may be from ours, its whole seconds included.
const CLOCK_SKEW: Duration = Duration::from_secs(5);

/// The contents of an upload's file.
#[derive(Debug, Serialize, Deserialize)]
struct Contents {
    bucket: String,
    folder: String,
    leaf: String,
    /// When the file was first written, which is right before the store is asked to begin the upload.
    #[serde(with = "time::serde::rfc3339")]
    asked: OffsetDateTime,
    /// `None` until the store has answered.
    id: Option<String>,
}

/// The record, in a file, of a multipart upload that begins or has begun.
#[derive(Debug)]
pub(super) struct UploadRecord {
    path: PathBuf,
    contents: Contents,
}

impl UploadRecord {
    /// Records an upload that the store is about to be asked for.
    pub(super) async fn write(dir: &Path, bucket: &BucketName, key: &Key) -> io::Result<Self> {
        let folder = key.folder().to_owned();
        let leaf = key.leaf().to_owned();
        let contents = Contents { bucket: bucket.to_string(), folder, leaf, asked: OffsetDateTime::now_utc(), id: None };
        let record = Self { path: dir.join(format!("{PREFIX}{:032x}.json", rand::random::<u128>())), contents };
        record.save().await?;
        Ok(record)
    }

    /// Records the id that the store has given the upload.
    pub(super) async fn set_id(&mut self, id: &MultipartId) -> io::Result<()> {
        self.contents.id = Some(id.0.clone());
        self.save().await
    }

    /// Removes the record: the upload is complete or aborted.
    pub(super) fn remove(&self) {
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "could not remove the record of a multipart upload");
        }
    }

    async fn read(path: PathBuf) -> io::Result<Self> {
        let contents = serde_json::from_slice(&tokio::fs::read(&path).await?)?;
        Ok(Self { path, contents })
    }

    /// Replaces the file atomically: a kill leaves either the old contents or the new ones.
    async fn save(&self) -> io::Result<()> {
        let unwritten = self.path.with_file_name(format!("{UNWRITTEN}{:032x}", rand::random::<u128>()));
        let saved = async {
            tokio::fs::write(&unwritten, serde_json::to_vec(&self.contents)?).await?;
            tokio::fs::rename(&unwritten, &self.path).await
        };
        let saved = saved.await;
        if saved.is_err() {
            let _ = tokio::fs::remove_file(&unwritten).await;
        }
        saved
    }

    /// Aborts the upload.
    async fn abort(&self, stores: &Stores) -> Result<(), String> {
        let key = Key::new(&self.contents.folder, &self.contents.leaf);
        let store = stores.bucket(&self.contents.bucket.parse().map_err(text)?).map_err(text)?.store;
        let ids = match &self.contents.id {
            Some(id) => vec![MultipartId(id.clone())],
            None => self.begun(store.as_ref(), &key).await?,
        };
        for id in ids {
            store.abort_multipart(&key, &id).await.map_err(text)?;
        }
        Ok(())
    }

    /// The uploads of the key that may be this one: they were begun after the store was asked, and no later than the call
    /// could still reach it.
    async fn begun(&self, store: &dyn GuardedStore, key: &Key) -> Result<Vec<MultipartId>, String> {
        let from = self.contents.asked - CLOCK_SKEW;
        let to = self.contents.asked + store.longest_call() + CLOCK_SKEW;
        let open = store.list_multipart(key).await.map_err(text)?;
        Ok(open.into_iter().filter(|(_, begun)| (from..=to).contains(begun)).map(|(id, _)| id).collect())
    }
}

/// The files of the uploads that earlier processes have left.
pub(super) async fn find(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut entries = tokio::fs::read_dir(dir).await?;
    let mut found = Vec::new();
    while let Some(entry) = entries.next_entry().await? {
        if entry.file_name().to_string_lossy().starts_with(PREFIX) {
            found.push(entry.path());
        }
    }
    Ok(found)
}

/// Aborts the uploads of the files in `paths`, those without an id first: `uncertain` is dropped when none of those is
/// left. An upload that cannot be aborted now is left for the next start.
pub(super) async fn abort(paths: Vec<PathBuf>, stores: Stores, uncertain: DropGuard) {
    let mut records = Vec::new();
    for path in paths {
        match UploadRecord::read(path.clone()).await {
            Ok(record) => records.push(record),
            Err(error) => tracing::warn!(path = %path.display(), %error, "could not read the record of a multipart upload"),
        }
    }
    let (with_id, without_id): (Vec<_>, Vec<_>) = records.into_iter().partition(|record| record.contents.id.is_some());
    abort_each(without_id, &stores).await;
    // From here on, new uploads may begin: they can no longer be taken for orphans.
    drop(uncertain);
    abort_each(with_id, &stores).await;
}

async fn abort_each(records: Vec<UploadRecord>, stores: &Stores) {
    for record in records {
        let path = record.path.display();
        match record.abort(stores).await {
            Ok(()) => {
                tracing::info!(%path, "aborted a multipart upload of an earlier run");
                record.remove();
            }
            Err(error) => tracing::warn!(%path, %error, "could not abort a multipart upload of an earlier run"),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn text(error: impl ToString) -> String {
    error.to_string()
}
