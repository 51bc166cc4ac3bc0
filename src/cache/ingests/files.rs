//! The two files of an ingest in the spool: the bytes (`.data`) and what else a restart must not lose (`.json`).
//! Those of a build have no second file: nobody takes them up again.

use std::collections::HashSet;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::IngestStatus;
use super::registry::{Name, State, States};
use crate::cache::{Error, Result};
use crate::transfer::Budget;

/// The names of both files begin so.
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

/// The folder that they are in. Cheap to clone. All calls block.
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

    pub(super) fn write_state(&self, id: &str, name: &Name, status: &IngestStatus) -> Result<()> {
        let document = Document {
            scope: name.scope.clone(),
            reference: status.reference.clone(),
            total: status.total,
            expected: status.expected.map(|digest| digest.to_string()),
            started: status.started,
        };
        let json = serde_json::to_vec(&document).map_err(|error| Error::Internal(error.to_string()))?;
        Ok(std::fs::write(self.state(id), json)?)
    }

    /// Removes both, where they are there.
    pub(super) fn remove(&self, id: &str) -> Result<()> {
        remove(&self.data(id))?;
        remove(&self.state(id))
    }

    /// What an earlier run left. What cannot be taken up is removed.
    pub(super) fn take_up(&self, expiry: Duration, budget: &Budget) -> Result<States> {
        let (mut states, mut dropped, mut seen) = (States::new(), Vec::new(), HashSet::new());
        for entry in std::fs::read_dir(&self.0)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let Some(id) = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(".json").or(rest.strip_suffix(".data"))) else {
                continue;
            };
            // It has two files.
            if !seen.insert(id.to_owned()) {
                continue;
            }
            match self.load(id, expiry, budget) {
                Some((name, state)) => match states.get(&name) {
                    Some(known) if known.status.started > state.status.started => dropped.push(state.id),
                    _ => dropped.extend(states.insert(name, state).map(|older| older.id)),
                },
                None => dropped.push(id.to_owned()),
            }
        }
        for id in dropped {
            // Cut off while it was made or removed, too old, or more than the spool may hold now.
            tracing::info!(ingest.id = id, "forgetting an unfinished ingest of an earlier run");
            self.remove(&id)?;
        }
        Ok(states)
    }

    fn load(&self, id: &str, expiry: Duration, budget: &Budget) -> Option<(Name, State)> {
        let document: Document = serde_json::from_slice(&std::fs::read(self.state(id)).ok()?).ok()?;
        let meta = std::fs::metadata(self.data(id)).ok()?;
        let updated = document.started.max(meta.modified().ok()?.into());
        if OffsetDateTime::now_utc() - updated > expiry {
            return None;
        }
        let status = IngestStatus {
            reference: document.reference.clone(),
            offset: meta.len(),
            total: document.total,
            expected: document.expected.and_then(|text| text.parse().ok()),
            started: document.started,
            updated,
        };
        let name = Name { scope: document.scope, reference: document.reference, of_build: false };
        // A second name of the file is a blob that was published just before the process ended.
        Some((name, State { id: id.to_owned(), open: false, given_away: meta.nlink() > 1, status, hold: budget.try_hold(meta.len())? }))
    }
}

/// Removes a file that may not be there.
pub(super) fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
