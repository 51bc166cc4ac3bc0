//! Multipart uploads that a process leaves when it is killed: S3 keeps their parts, and bills them, until
//! somebody aborts them.
//!
//! A small file for each lets the next start do that. It is written before the store hears of the upload, and
//! has the id from when the store has told it. Where a kill came between the two, the upload is known by its
//! key and the time of its begin. So an upload of the very same blob that another remora began in the same
//! moments loses its parts, too: that exporter sends them again or drops its export.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio_util::sync::DropGuard;

use crate::store::{GuardedStore, MultipartId, Stores};
use crate::types::{BucketName, Key};

/// The names of the files begin so.
const PREFIX: &str = "multipart-";
/// The name of one that is being written: the spool clears it at the next start.
const UNWRITTEN: &str = "tmp-";
/// How far the store's clock may be from ours, its whole seconds included.
const CLOCK_SKEW: Duration = Duration::from_secs(5);

/// A multipart upload, as its file has it.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    bucket: String,
    folder: String,
    leaf: String,
    /// When the file was written first, right before the store was asked to begin.
    #[serde(with = "time::serde::rfc3339")]
    asked: OffsetDateTime,
    /// `None` until the store has answered.
    id: Option<String>,
}

/// The file of an upload that begins or has begun.
#[derive(Debug)]
pub(super) struct Reminder {
    path: PathBuf,
    record: Record,
}

impl Reminder {
    /// Of an upload that the store is asked for next.
    pub(super) async fn write(dir: &Path, bucket: &BucketName, key: &Key) -> io::Result<Self> {
        let (folder, leaf) = (key.folder().to_owned(), key.leaf().to_owned());
        let record = Record { bucket: bucket.to_string(), folder, leaf, asked: OffsetDateTime::now_utc(), id: None };
        let reminder = Self { path: dir.join(format!("{PREFIX}{:032x}.json", rand::random::<u128>())), record };
        reminder.save().await?;
        Ok(reminder)
    }

    /// The store has told the id.
    pub(super) async fn complete(&mut self, id: &MultipartId) -> io::Result<()> {
        self.record.id = Some(id.0.clone());
        self.save().await
    }

    /// The upload is at its end.
    pub(super) fn remove(&self) {
        if let Err(error) = std::fs::remove_file(&self.path)
            && error.kind() != io::ErrorKind::NotFound
        {
            tracing::warn!(path = %self.path.display(), %error, "could not remove the reminder of an upload");
        }
    }

    async fn read(path: PathBuf) -> io::Result<Self> {
        let record = serde_json::from_slice(&tokio::fs::read(&path).await?)?;
        Ok(Self { path, record })
    }

    /// Replaces the file at once: a kill leaves it as it was or as it is to be.
    async fn save(&self) -> io::Result<()> {
        let unwritten = self.path.with_file_name(format!("{UNWRITTEN}{:032x}", rand::random::<u128>()));
        let saved = async {
            tokio::fs::write(&unwritten, serde_json::to_vec(&self.record)?).await?;
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
        let key = Key::new(&self.record.folder, &self.record.leaf);
        let store = stores.bucket(&self.record.bucket.parse().map_err(text)?).map_err(text)?.store;
        let ids = match &self.record.id {
            Some(id) => vec![MultipartId(id.clone())],
            None => self.begun(store.as_ref(), &key).await?,
        };
        for id in ids {
            store.abort_multipart(&key, &id).await.map_err(text)?;
        }
        Ok(())
    }

    /// What the store may have begun for this upload: after it was asked, and no later than it could be.
    async fn begun(&self, store: &dyn GuardedStore, key: &Key) -> Result<Vec<MultipartId>, String> {
        let (from, to) = (self.record.asked - CLOCK_SKEW, self.record.asked + store.longest_call() + CLOCK_SKEW);
        let open = store.list_multipart(key).await.map_err(text)?;
        Ok(open.into_iter().filter(|(_, begun)| (from..=to).contains(begun)).map(|(id, _)| id).collect())
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

/// Aborts them, those without an id first: `uncertain` is dropped when there are none any more. One that cannot
/// be aborted now is left for the next start.
pub(super) async fn abort(paths: Vec<PathBuf>, stores: Stores, uncertain: DropGuard) {
    let mut reminders = Vec::new();
    for path in paths {
        match Reminder::read(path.clone()).await {
            Ok(reminder) => reminders.push(reminder),
            Err(error) => tracing::warn!(path = %path.display(), %error, "could not read the reminder of an upload"),
        }
    }
    let (certain, without_id): (Vec<_>, Vec<_>) = reminders.into_iter().partition(|reminder| reminder.record.id.is_some());
    abort_each(without_id, &stores).await;
    drop(uncertain);
    abort_each(certain, &stores).await;
}

async fn abort_each(reminders: Vec<Reminder>, stores: &Stores) {
    for reminder in reminders {
        let path = reminder.path.display();
        match reminder.abort(stores).await {
            Ok(()) => {
                tracing::info!(%path, "aborted a multipart upload of an earlier run");
                reminder.remove();
            }
            Err(error) => tracing::warn!(%path, %error, "could not abort a multipart upload of an earlier run"),
        }
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn text(error: impl ToString) -> String {
    error.to_string()
}
