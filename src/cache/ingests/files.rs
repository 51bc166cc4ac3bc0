//! The two files of an ingest in the spool: the bytes (`.data`), and what else a restart must not lose (`.json`). The ingests
//! of a build have no second file, as nobody takes them up again.

use std::collections::BTreeSet;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::IngestStatus;
use crate::cache::{Error, Result};

/// What the names of both files begin with.
const PREFIX: &str = "ingest-";

/// What of an ingest survives a restart. Its offset is the size of the data file, its last change that
/// file's time.
#[derive(Debug, Serialize, Deserialize)]
struct Document {
    scope: String,
    reference: String,
    total: u64,
    expected: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    started: OffsetDateTime,
}

/// An ingest that an earlier run left.
#[derive(Debug)]
pub(super) struct Left {
    pub(super) scope: String,
    pub(super) status: IngestStatus,
    /// A store has kept the data file as a blob.
    pub(super) given_away: bool,
}

/// The folder of the files. Cheap to clone. All calls block.
#[derive(Debug, Clone)]
pub(super) struct Files(Arc<Path>);

impl Files {
    pub(super) fn below(spool_dir: &Path) -> Self {
        Self(spool_dir.into())
    }

    /// The path of an ingest's bytes.
    pub(super) fn data(&self, id: &str) -> PathBuf {
        self.0.join(format!("{PREFIX}{id}.data"))
    }

    fn state(&self, id: &str) -> PathBuf {
        self.0.join(format!("{PREFIX}{id}.json"))
    }

    /// Copies the bytes of one ingest, where it has any, to another.
    pub(super) fn copy_data(&self, from: &str, to: &str) -> Result<()> {
        match std::fs::copy(self.data(from), self.data(to)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }

    pub(super) fn write_state(&self, id: &str, scope: &str, status: &IngestStatus) -> Result<()> {
        let document = Document {
            scope: scope.to_owned(),
            reference: status.reference.clone(),
            total: status.total,
            expected: status.expected.map(|digest| digest.to_string()),
            started: status.started,
        };
        let json = serde_json::to_vec(&document).map_err(|error| Error::Internal(error.to_string()))?;
        Ok(std::fs::write(self.state(id), json)?)
    }

    /// Removes both files, where they exist.
    pub(super) fn remove(&self, id: &str) -> Result<()> {
        remove(&self.data(id))?;
        remove(&self.state(id))
    }

    /// The ids of all that have a file.
    pub(super) fn ids(&self) -> Result<BTreeSet<String>> {
        let mut ids = BTreeSet::new();
        for entry in std::fs::read_dir(&self.0)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let id = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(".json").or(rest.strip_suffix(".data")));
            ids.extend(id.map(str::to_owned));
        }
        Ok(ids)
    }

    /// What the files say. `None`: one of them is missing or cut off.
    pub(super) fn load(&self, id: &str) -> Option<Left> {
        let document: Document = serde_json::from_slice(&std::fs::read(self.state(id)).ok()?).ok()?;
        let meta = std::fs::metadata(self.data(id)).ok()?;
        let status = IngestStatus {
            reference: document.reference,
            offset: meta.len(),
            total: document.total,
            expected: document.expected.and_then(|text| text.parse().ok()),
            started: document.started,
            updated: document.started.max(meta.modified().ok()?.into()),
        };
        // A second name of the file is a blob that was published just before the process ended.
        Some(Left { scope: document.scope, status, given_away: meta.nlink() > 1 })
    }
}

/// Removes a file that may not be there.
pub(super) fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
