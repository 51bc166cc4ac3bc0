//! An entry on disk: its bytes (`.data`), then what they are (`.json`). The second file makes the entry: it gets
//! its name when both are fsynced, and is the first to go.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::{JournalEntry, needs};
use crate::cache::CacheConfig;
use crate::cache::layout::Item;
use crate::store::Body;
use crate::types::{Digest, Invalid, Scope};

/// What the second file holds.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    bucket: String,
    prefix: String,
    blobs_prefix: String,
    manifests_prefix: String,
    /// `None`: a blob.
    manifest: Option<String>,
    digest: String,
    size: u64,
    #[serde(with = "time::serde::rfc3339")]
    taken: OffsetDateTime,
}

impl Document {
    fn of(entry: &JournalEntry) -> Self {
        let scope = &entry.scope;
        let manifest = match &entry.item {
            Item::Blob(_) => None,
            Item::Manifest(name) => Some(name.to_string()),
        };
        Self {
            bucket: scope.bucket().to_string(),
            prefix: scope.prefix().to_owned(),
            blobs_prefix: scope.blobs_prefix().to_owned(),
            manifests_prefix: scope.manifests_prefix().to_owned(),
            manifest,
            digest: entry.digest.to_string(),
            size: entry.size,
            taken: entry.taken,
        }
    }

    fn into_entry(self) -> Result<JournalEntry, Invalid> {
        let scope = Scope::with_prefixes(self.bucket.parse()?, &self.prefix, &self.blobs_prefix, &self.manifests_prefix)?;
        let digest: Digest = self.digest.parse()?;
        let item = match self.manifest {
            Some(name) => Item::Manifest(name.parse()?),
            None => Item::Blob(digest),
        };
        Ok(JournalEntry::new(scope, item, digest, self.size, self.taken))
    }
}

/// Where an entry's bytes are.
pub(super) fn data_path(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("{id:020}.data"))
}

fn document_path(dir: &Path, id: u64) -> PathBuf {
    dir.join(format!("{id:020}.json"))
}

/// Makes an entry, which is durable when this returns. The bytes of a file are linked and not copied, so nobody may write to
/// the file any more. After an error there is no entry.
pub(super) fn write(dir: &Path, id: u64, entry: &JournalEntry, body: &Body) -> io::Result<()> {
    let unnamed = dir.join(format!("{id:020}.tmp"));
    let written = write_data(&data_path(dir, id), body).and_then(|()| {
        write_synced(&unnamed, &serde_json::to_vec(&Document::of(entry))?)?;
        fs::rename(&unnamed, document_path(dir, id))?;
        File::open(dir)?.sync_all()
    });
    if written.is_err() {
        // The files that are left are no entry, and the next start clears them.
        let _ = remove_file(&unnamed).and_then(|()| remove(dir, id));
    }
    written
}

fn write_data(to: &Path, body: &Body) -> io::Result<()> {
    match body {
        Body::Bytes(bytes) => write_synced(to, bytes),
        Body::File { path, offset: 0, len } => {
            let file = File::open(path)?;
            if file.metadata()?.len() != *len {
                return Err(io::Error::other("a file of the spool has another size than its blob"));
            }
            file.sync_all()?;
            // Where the two folders are on different file systems, the file is copied.
            fs::hard_link(path, to).or_else(|_| {
                fs::copy(path, to)?;
                File::open(to)?.sync_all()
            })
        }
        Body::File { .. } => Err(io::Error::other("a part of a file is no entry")),
    }
}

fn write_synced(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

/// Removes an entry.
pub(super) fn remove(dir: &Path, id: u64) -> io::Result<()> {
    remove_file(&document_path(dir, id))?;
    remove_file(&data_path(dir, id))?;
    File::open(dir)?.sync_all()
}

fn remove_file(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// The entries that earlier runs left, each with the blobs that it needs. An entry that is not whole is removed: it
/// was not acknowledged yet, or was ended already.
pub(super) fn scan(dir: &Path) -> io::Result<Vec<(u64, JournalEntry, Vec<Digest>)>> {
    fs::create_dir_all(dir)?;
    if let Some(parent) = dir.parent() {
        // A power loss that takes away the folder would take all entries in it.
        File::open(parent)?.sync_all()?;
    }
    let mut found = Vec::new();
    let mut others = Vec::new();
    for file in fs::read_dir(dir)? {
        let path = file?.path();
        let id = path.file_stem().and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        match (id, path.extension().and_then(|extension| extension.to_str())) {
            (Some(id), Some("json")) => match read(&path) {
                Ok(entry) => {
                    let needs = if matches!(entry.item, Item::Manifest(_)) { named(&data_path(dir, id)) } else { Vec::new() };
                    found.push((id, entry, needs));
                }
                Err(error) => {
                    tracing::error!(path = %path.display(), %error, "an entry of the journal is damaged, and what it was is lost: {error}");
                    remove(dir, id)?;
                }
            },
            (Some(_), Some("data")) => others.push(path),
            (Some(_), Some("tmp")) => remove_file(&path)?,
            _ => tracing::warn!(path = %path.display(), "this file is not of the journal"),
        }
    }
    for data in others.iter().filter(|data| !data.with_extension("json").exists()) {
        remove_file(data)?;
    }
    found.sort_by_key(|(id, ..)| *id);
    Ok(found)
}

fn read(path: &Path) -> io::Result<JournalEntry> {
    let document: Document = serde_json::from_slice(&fs::read(path)?)?;
    document.into_entry().map_err(io::Error::other)
}

/// The blobs that a manifest names; none where it is damaged, which is found when it is finished.
fn named(path: &Path) -> Vec<Digest> {
    let config = fs::read(path).ok().and_then(|document| CacheConfig::parse(&document).ok());
    config.as_ref().map(needs).unwrap_or_default()
}
