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
pub(super) struct Name {
    scope: String,
    pub(super) reference: String,
    /// It ends with its writer: a build's session.
    of_build: bool,
}

impl Name {
    pub(super) fn new(grant: &Grant, reference: &str) -> Self {
        Self { scope: scope_text(grant.scope()), reference: reference.to_owned(), of_build: grant.documents().is_some() }
    }
}

fn scope_text(scope: &Scope) -> String {
    format!("{scope}#{}", scope.blobs_prefix())
}

#[derive(Debug)]
struct State {
    /// Names the files.
    id: String,
    open: bool,
    /// A store may have kept the data file itself as a blob: it must not be written again.
    given_away: bool,
    status: IngestStatus,
    /// Its bytes in the spool.
    hold: Hold,
}

type States = HashMap<Name, State>;

/// All ingests. Cheap to clone.
#[derive(Debug, Clone)]
pub(in crate::cache) struct Registry {
    files: Files,
    states: Arc<Mutex<States>>,
    budget: Budget,
    max_bytes: u64,
}

/// The right to write an ingest; ends when dropped.
#[derive(Debug)]
pub(super) struct Lock {
    registry: Registry,
    name: Name,
    id: String,
}

impl Registry {
    pub(in crate::cache) async fn open(settings: &Settings, budget: Budget) -> Result<Self> {
        spool::prepare(&settings.spool_dir).await?;
        let (files, expiry, room) = (Files::below(&settings.spool_dir), settings.ingest_expiry, budget.clone());
        let found = files.clone();
        let states = Arc::new(Mutex::new(blocking(move || take_up(&found, expiry, &room)).await?));
        Ok(Self { files, states, budget, max_bytes: settings.max_spool_bytes })
    }

    fn states(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks an ingest, and begins it where there is none. An ingest of another blob (another size or digest was
    /// announced) begins anew.
    pub(super) async fn begin(&self, name: &Name, total: u64, expected: Option<Digest>, settings: &Settings) -> Result<Lock> {
        self.expire(settings.ingest_expiry).await?;
        match self.lock(name, total, expected, settings.max_open_ingests)? {
            (lock, None) => Ok(lock),
            (lock, Some(old)) => blocking(move || lock.replace(&old)).await,
        }
    }

    fn lock(&self, name: &Name, total: u64, expected: Option<Digest>, max: usize) -> Result<(Lock, Option<OldFiles>)> {
        let mut states = self.states();
        let new_id = format!("{:032x}", rand::random::<u128>());
        let lock = |id: String| Lock { registry: self.clone(), name: name.clone(), id };
        if let Some(state) = states.get_mut(name) {
            if state.open {
                return Err(Error::Locked(format!("ingest {} has a writer", name.reference)));
            }
            state.open = true;
            let status = &mut state.status;
            let same_size = total == 0 || status.total == 0 || status.total == total;
            if same_size && (expected.is_none() || status.expected.is_none() || status.expected == expected) {
                status.total = status.total.max(total);
                status.expected = status.expected.or(expected);
                if !state.given_away {
                    return Ok((lock(state.id.clone()), None));
                }
                state.given_away = false;
                let old = OldFiles { id: std::mem::replace(&mut state.id, new_id.clone()), keep_data: true };
                return Ok((lock(new_id), Some(old)));
            }
        } else if states.len() >= max {
            return Err(Error::Exhausted(format!("{max} ingests are open; limits.max_open_ingests allows no more")));
        }
        let now = OffsetDateTime::now_utc();
        let status = IngestStatus { reference: name.reference.clone(), offset: 0, total, expected, started: now, updated: now };
        let hold = self.budget.try_hold(0).ok_or_else(|| spool::spool_full(&name.reference, self.max_bytes))?;
        let old = states.insert(name.clone(), State { id: new_id.clone(), open: true, given_away: false, status, hold });
        Ok((lock(new_id), old.map(|state| OldFiles { id: state.id, keep_data: false })))
    }

    pub(super) fn status(&self, name: &Name) -> Option<IngestStatus> {
        self.states().get(name).map(|state| state.status.clone())
    }

    /// How many there are.
    pub(in crate::cache) fn count(&self) -> usize {
        self.states().len()
    }

    pub(super) fn statuses(&self, scope: &Scope) -> Vec<IngestStatus> {
        let scope = scope_text(scope);
        let mut all: Vec<_> = self.states().iter().filter(|(name, _)| name.scope == scope).map(|(_, state)| state.status.clone()).collect();
        all.sort_by(|left, right| left.reference.cmp(&right.reference));
        all
    }

    /// Forgets an ingest, also one that has a writer. Whether there was one.
    pub(super) async fn forget(&self, name: &Name) -> Result<bool> {
        self.forget_if(name, |_| true).await
    }

    async fn forget_if(&self, name: &Name, wanted: impl Fn(&State) -> bool) -> Result<bool> {
        let removed = match self.states().entry(name.clone()) {
            Entry::Occupied(entry) if wanted(entry.get()) => Some(entry.remove()),
            _ => None,
        };
        let Some(state) = removed else { return Ok(false) };
        self.remove_files(vec![state.id]).await?;
        Ok(true)
    }

    /// Forgets what nobody wrote to for so long.
    async fn expire(&self, expiry: Duration) -> Result<()> {
        let now = OffsetDateTime::now_utc();
        let expired: Vec<String> =
            self.states().extract_if(|_, state| !state.open && now - state.status.updated > expiry).map(|(_, state)| state.id).collect();
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

impl Lock {
    pub(super) fn data_path(&self) -> PathBuf {
        self.registry.files.data(&self.id)
    }

    /// The first `len` bytes of the data file.
    pub(super) fn piece(&self, len: u64) -> Payload {
        Body::File { path: self.data_path(), offset: 0, len }.into()
    }

    /// Changes what is known of the ingest.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it was aborted meanwhile.
    pub(super) fn update(&self, change: impl FnOnce(&mut IngestStatus)) -> Result<IngestStatus> {
        self.with(|state| {
            change(&mut state.status);
            state.status.clone()
        })
    }

    /// Takes room in the spool for this many bytes, in place of what it had.
    pub(super) fn hold(&self, bytes: u64) -> Result<()> {
        if self.with(|state| state.hold.resize(bytes))? {
            Ok(())
        } else {
            Err(spool::spool_full(&format!("ingest {}", self.name.reference), self.registry.max_bytes))
        }
    }

    /// Forgets the ingest, unless it was aborted already.
    pub(super) async fn forget(&self) -> Result<()> {
        self.registry.forget_if(&self.name, |state| state.id == self.id).await.map(|_| ())
    }

    /// As [`Lock::forget`], at once: unlinking is quick.
    fn end(&self) {
        match self.registry.states().entry(self.name.clone()) {
            Entry::Occupied(entry) if entry.get().id == self.id => drop(entry.remove()),
            _ => return,
        }
        if let Err(error) = self.registry.files.remove(&self.id) {
            tracing::warn!(ingest.id = %self.id, %error, "could not remove an ingest's files");
        }
    }

    /// The data file may be kept by a store from now on.
    pub(super) fn give_away(&self) -> Result<()> {
        self.with(|state| state.given_away = true)
    }

    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> Result<T> {
        match self.registry.states().get_mut(&self.name) {
            Some(state) if state.id == self.id => Ok(act(state)),
            _ => Err(Error::NotFound(format!("ingest {} was aborted", self.name.reference))),
        }
    }

    /// Takes the place of files that the ingest had before.
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

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = self.with(|state| state.open = false);
        // A build's session does not come back for what it has not finished.
        if self.name.of_build {
            self.end();
        }
    }
}

/// What an earlier run left. What is too old, or more than there is room for now, is removed.
fn take_up(files: &Files, expiry: Duration, budget: &Budget) -> Result<States> {
    let (mut states, mut dropped, now) = (States::new(), Vec::new(), OffsetDateTime::now_utc());
    for id in files.ids()? {
        let left = files.load(&id).filter(|left| now - left.status.updated <= expiry);
        let Some((Left { scope, status, given_away }, hold)) =
            left.and_then(|left| budget.try_hold(left.status.offset).map(|hold| (left, hold)))
        else {
            dropped.push(id);
            continue;
        };
        let name = Name { scope, reference: status.reference.clone(), of_build: false };
        match states.get(&name) {
            Some(known) if known.status.started > status.started => dropped.push(id),
            _ => dropped.extend(states.insert(name, State { id, open: false, given_away, status, hold }).map(|older| older.id)),
        }
    }
    for id in dropped {
        tracing::info!(ingest.id = id, "forgetting an unfinished ingest of an earlier run");
        files.remove(&id)?;
    }
    Ok(states)
}
