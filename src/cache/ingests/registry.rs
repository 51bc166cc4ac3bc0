//! The ingests that are open or were left.
//!
//! Each begin of an ingest has files of its own, so that whoever still holds old ones harms no new one.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use time::OffsetDateTime;

use super::IngestStatus;
use super::files::{Files, Left};
use crate::cache::blocking::blocking;
use crate::cache::write::spool;
use crate::cache::{Error, Result, Settings};
use crate::store::Body;
use crate::transfer::{Budget, Hold, Payload};
use crate::types::{Digest, Grant, Scope};

/// Which ingest: ingests of one scope do not exist for another.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct IngestName {
    scope: String,
    pub(super) reference: String,
    /// It is of a build's session, and ends with its writer.
    of_build: bool,
}

impl IngestName {
    pub(super) fn new(grant: &Grant, reference: &str) -> Self {
        Self { scope: scope_text(grant.scope()), reference: reference.to_owned(), of_build: grant.is_session() }
    }
}

fn scope_text(scope: &Scope) -> String {
    format!("{scope}#{}", scope.blobs_prefix())
}

#[derive(Debug)]
struct IngestEntry {
    /// Names the files.
    id: String,
    open: bool,
    /// A store may have kept the data file itself as a blob: it must not be written again.
    given_away: bool,
    status: IngestStatus,
    /// Its bytes in the spool.
    hold: Hold,
}

type Entries = HashMap<IngestName, IngestEntry>;

/// All ingests. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::cache) struct Registry {
    files: Files,
    entries: Arc<Mutex<Entries>>,
    budget: Budget,
    max_bytes: u64,
    max_open: usize,
    /// An ingest that nobody wrote to for this long is forgotten.
    expiry: Duration,
}

/// The right to write an ingest; ends when dropped.
#[derive(Debug)]
pub(super) struct IngestLock {
    registry: Registry,
    name: IngestName,
    id: String,
}

impl Registry {
    /// Takes up the ingests that an earlier run left in the spool, which has room for `budget`.
    pub(in crate::cache) async fn open(settings: &Settings, budget: Budget) -> Result<Self> {
        let files = Files::below(&settings.spool_dir);
        let expiry = settings.ingest_expiry;
        let room = budget.clone();
        let found = files.clone();
        let entries = Arc::new(Mutex::new(blocking(move || take_up(&found, expiry, &room)).await?));
        Ok(Self { files, entries, budget, max_bytes: settings.max_spool_bytes, max_open: settings.max_open_ingests, expiry })
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks an ingest, and begins it where there is none. An ingest of another blob (another size or digest was
    /// announced) begins anew.
    pub(super) async fn begin(&self, name: &IngestName, total: u64, expected: Option<Digest>) -> Result<IngestLock> {
        self.expire().await?;
        match self.lock(name, total, expected)? {
            (lock, None) => Ok(lock),
            (lock, Some(old)) => blocking(move || lock.replace(&old)).await,
        }
    }

    fn lock(&self, name: &IngestName, total: u64, expected: Option<Digest>) -> Result<(IngestLock, Option<OldFiles>)> {
        let mut entries = self.entries();
        let new_id = format!("{:032x}", rand::random::<u128>());
        let lock = |id: String| IngestLock { registry: self.clone(), name: name.clone(), id };
        if let Some(entry) = entries.get_mut(name) {
            if entry.open {
                return Err(Error::Locked(format!("ingest {} has a writer", name.reference)));
            }
            entry.open = true;
            let status = &mut entry.status;
            let same_size = total == 0 || status.total == 0 || status.total == total;
            if same_size && (expected.is_none() || status.expected.is_none() || status.expected == expected) {
                status.total = status.total.max(total);
                status.expected = status.expected.or(expected);
                if !entry.given_away {
                    return Ok((lock(entry.id.clone()), None));
                }
                entry.given_away = false;
                let old = OldFiles { id: std::mem::replace(&mut entry.id, new_id.clone()), keep_data: true };
                return Ok((lock(new_id), Some(old)));
            }
        } else if entries.len() >= self.max_open {
            return Err(Error::Exhausted(format!("{} ingests are open; limits.max_open_ingests allows no more", self.max_open)));
        }
        let now = OffsetDateTime::now_utc();
        let status = IngestStatus { reference: name.reference.clone(), offset: 0, total, expected, started: now, updated: now };
        let hold = self.budget.try_hold(0).ok_or_else(|| spool::spool_full(&name.reference, self.max_bytes))?;
        let old = entries.insert(name.clone(), IngestEntry { id: new_id.clone(), open: true, given_away: false, status, hold });
        Ok((lock(new_id), old.map(|entry| OldFiles { id: entry.id, keep_data: false })))
    }

    pub(super) fn status(&self, name: &IngestName) -> Option<IngestStatus> {
        self.entries().get(name).map(|entry| entry.status.clone())
    }

    /// How many there are.
    pub(in crate::cache) fn count(&self) -> usize {
        self.entries().len()
    }

    pub(super) fn statuses(&self, scope: &Scope) -> Vec<IngestStatus> {
        let scope = scope_text(scope);
        let mut all: Vec<_> =
            self.entries().iter().filter(|(name, _)| name.scope == scope).map(|(_, entry)| entry.status.clone()).collect();
        all.sort_by(|left, right| left.reference.cmp(&right.reference));
        all
    }

    /// Forgets an ingest, also one that has a writer. Returns whether there was one.
    pub(super) async fn forget(&self, name: &IngestName) -> Result<bool> {
        self.forget_if(name, |_| true).await
    }

    async fn forget_if(&self, name: &IngestName, wanted: impl Fn(&IngestEntry) -> bool) -> Result<bool> {
        let removed = match self.entries().entry(name.clone()) {
            Entry::Occupied(entry) if wanted(entry.get()) => Some(entry.remove()),
            _ => None,
        };
        let Some(entry) = removed else { return Ok(false) };
        self.remove_files(vec![entry.id]).await?;
        Ok(true)
    }

    /// Forgets what nobody wrote to for too long.
    async fn expire(&self) -> Result<()> {
        let now = OffsetDateTime::now_utc();
        let expired: Vec<String> = self
            .entries()
            .extract_if(|_, entry| !entry.open && now - entry.status.updated > self.expiry)
            .map(|(_, entry)| entry.id)
            .collect();
        if expired.is_empty() { Ok(()) } else { self.remove_files(expired).await }
    }

    async fn remove_files(&self, ids: Vec<String>) -> Result<()> {
        let files = self.files.clone();
        blocking(move || ids.iter().try_for_each(|id| files.remove(id))).await
    }
}

/// Files that an ingest had before it was begun anew.
struct OldFiles {
    id: String,
    keep_data: bool,
}

impl IngestLock {
    pub(super) fn data_path(&self) -> PathBuf {
        self.registry.files.data(&self.id)
    }

    /// The first `len` bytes of the data file, to be stored.
    pub(super) fn payload(&self, len: u64) -> Payload {
        Body::File { path: self.data_path(), offset: 0, len }.into()
    }

    /// Changes what is known of the ingest.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it was aborted meanwhile.
    pub(super) fn update(&self, change: impl FnOnce(&mut IngestStatus)) -> Result<IngestStatus> {
        self.with(|entry| {
            change(&mut entry.status);
            entry.status.clone()
        })
    }

    /// Takes room in the spool for this many bytes, in place of what it had.
    pub(super) fn hold(&self, bytes: u64) -> Result<()> {
        if self.with(|entry| entry.hold.resize(bytes))? {
            Ok(())
        } else {
            Err(spool::spool_full(&format!("ingest {}", self.name.reference), self.registry.max_bytes))
        }
    }

    /// Forgets the ingest, unless it was aborted already.
    pub(super) async fn forget(&self) -> Result<()> {
        self.registry.forget_if(&self.name, |entry| entry.id == self.id).await.map(|_| ())
    }

    /// Forgets the ingest without waiting: unlinking is quick.
    fn end(&self) {
        match self.registry.entries().entry(self.name.clone()) {
            Entry::Occupied(entry) if entry.get().id == self.id => drop(entry.remove()),
            _ => return,
        }
        if let Err(error) = self.registry.files.remove(&self.id) {
            tracing::warn!(ingest.id = %self.id, %error, "could not remove an ingest's files");
        }
    }

    /// The data file may be kept by a store from now on.
    pub(super) fn give_away(&self) -> Result<()> {
        self.with(|entry| entry.given_away = true)
    }

    fn with<T>(&self, act: impl FnOnce(&mut IngestEntry) -> T) -> Result<T> {
        match self.registry.entries().get_mut(&self.name) {
            Some(entry) if entry.id == self.id => Ok(act(entry)),
            _ => Err(Error::NotFound(format!("ingest {} was aborted", self.name.reference))),
        }
    }

    /// Replaces the files that the ingest had before.
    fn replace(self, old: &OldFiles) -> Result<Self> {
        let files = &self.registry.files;
        if old.keep_data {
            files.copy_data(&old.id, &self.id)?;
        }
        files.remove(&old.id)?;
        Ok(self)
    }

    /// Writes down what a restart must not lose, where somebody may take the ingest up again. Blocks.
    pub(super) fn write_state(&self, status: &IngestStatus) -> Result<()> {
        if self.name.of_build {
            return Ok(());
        }
        self.registry.files.write_state(&self.id, &self.name.scope, status)
    }
}

impl Drop for IngestLock {
    fn drop(&mut self) {
        let _ = self.with(|entry| entry.open = false);
        // A build's session does not come back for what it has not finished.
        if self.name.of_build {
            self.end();
        }
    }
}

/// The ingests that an earlier run left. Those that are too old, and those for which there is no room now, are removed.
fn take_up(files: &Files, expiry: Duration, budget: &Budget) -> Result<Entries> {
    let mut entries = Entries::new();
    let mut dropped = Vec::new();
    let now = OffsetDateTime::now_utc();
    for id in files.ids()? {
        let left = files.load(&id).filter(|left| now - left.status.updated <= expiry);
        let Some((Left { scope, status, given_away }, hold)) =
            left.and_then(|left| budget.try_hold(left.status.offset).map(|hold| (left, hold)))
        else {
            dropped.push(id);
            continue;
        };
        let name = IngestName { scope, reference: status.reference.clone(), of_build: false };
        match entries.get(&name) {
            Some(known) if known.status.started > status.started => dropped.push(id),
            _ => dropped.extend(entries.insert(name, IngestEntry { id, open: false, given_away, status, hold }).map(|older| older.id)),
        }
    }
    for id in dropped {
        tracing::info!(ingest.id = id, "forgetting an unfinished ingest of an earlier run");
        files.remove(&id)?;
    }
    Ok(entries)
}
