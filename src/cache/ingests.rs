//! The ingests that are open or were left, and their two files in the spool: the bytes (`.data`) and what
//! else a restart must not lose (`.json`). Those of a build have no second file: nobody takes them up again.
//!
//! Each begin of an ingest has files of its own, so that whoever still holds old ones harms no new one.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;

use super::ingest::IngestStatus;
use super::{Error, Result, Settings, spool};
use crate::store::Body;
use crate::transfer::{Budget, Hold, Piece};
use crate::types::{Digest, Grant, Hasher, Scope, Sums};

/// The names of both files begin so.
const PREFIX: &str = "ingest-";
const READ_BYTES: usize = 1 << 20;

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

type States = HashMap<Name, State>;

/// All ingests. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Registry {
    dir: Arc<Path>,
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

/// An ingest's data file, while it is being written. It moves to a blocking thread and back, and the lock
/// with it: a write that nobody waits for any more still ends before the ingest has another writer.
#[derive(Debug)]
pub(super) struct Writing {
    /// `None`: what arrives is thrown away.
    file: Option<std::fs::File>,
    hasher: Hasher,
    offset: u64,
    pub(super) lock: Lock,
}

impl Registry {
    pub(super) async fn open(settings: &Settings, budget: Budget) -> Result<Self> {
        spool::prepare(&settings.spool_dir).await?;
        let (dir, expiry, room) = (settings.spool_dir.clone(), settings.ingest_expiry, budget.clone());
        let states = Arc::new(Mutex::new(blocking(move || scan(&dir, expiry, &room)).await?));
        Ok(Self { dir: settings.spool_dir.as_path().into(), states, budget, max_bytes: settings.max_spool_bytes })
    }

    fn states(&self) -> MutexGuard<'_, States> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn data_path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{PREFIX}{id}.data"))
    }

    fn state_path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{PREFIX}{id}.json"))
    }

    /// Locks an ingest, begins it where there is none, and opens its file. An ingest of another blob
    /// (another size or digest was announced) begins anew.
    pub(super) async fn begin(&self, name: &Name, total: u64, expected: Option<Digest>, settings: &Settings) -> Result<Writing> {
        self.expire(settings.ingest_expiry).await?;
        let (lock, old) = self.lock(name, total, expected, settings.max_open_ingests)?;
        blocking(move || lock.open(old)).await
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
    pub(super) fn count(&self) -> usize {
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
        let registry = self.clone();
        blocking(move || ids.iter().try_for_each(|id| registry.remove_files_of(id))).await
    }

    fn remove_files_of(&self, id: &str) -> Result<()> {
        remove(&self.data_path(id))?;
        remove(&self.state_path(id))
    }
}

/// Files that an ingest had before it was begun anew.
struct OldFiles {
    id: String,
    keep_data: bool,
}

impl Lock {
    pub(super) fn data_path(&self) -> PathBuf {
        self.registry.data_path(&self.id)
    }

    /// The first `len` bytes of the data file.
    pub(super) fn piece(&self, len: u64) -> Piece {
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
    fn hold(&self, bytes: u64) -> Result<()> {
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
        if let Err(error) = self.registry.remove_files_of(&self.id) {
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

    fn open(self, old: Option<OldFiles>) -> Result<Writing> {
        let path = self.data_path();
        if let Some(old) = old {
            if old.keep_data {
                match std::fs::copy(self.registry.data_path(&old.id), &path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                    _ => {}
                }
            }
            self.registry.remove_files_of(&old.id)?;
        }
        let mut file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
        let (hasher, offset) = hash(&mut file)?;
        let status = self.update(|status| status.offset = offset)?;
        let file = Some(file);
        if self.name.of_build {
            return Ok(Writing { file, hasher, offset, lock: self });
        }
        let document = Document {
            scope: self.name.scope.clone(),
            reference: status.reference,
            total: status.total,
            expected: status.expected.map(|digest| digest.to_string()),
            started: status.started,
        };
        let json = serde_json::to_vec(&document).map_err(|error| Error::Internal(error.to_string()))?;
        std::fs::write(self.registry.state_path(&self.id), json)?;
        Ok(Writing { file, hasher, offset, lock: self })
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

impl Writing {
    pub(super) fn sums(&self) -> Sums {
        self.hasher.clone().finish()
    }

    pub(super) fn offset(&self) -> u64 {
        self.offset
    }

    /// Appends. After an error everything is as before.
    pub(super) fn append(&mut self, data: &[u8]) -> Result<()> {
        let end = self.offset + data.len() as u64;
        if let Some(file) = &mut self.file {
            self.lock.hold(end)?;
            if let Err(error) = file.write_all(data) {
                self.cut(self.offset)?;
                return Err(error.into());
            }
        }
        self.hasher.update(data);
        self.moved(end)
    }

    /// Appends to nothing: from now on only the digest and the size are kept.
    pub(super) fn discard(&mut self, data: &[u8]) -> Result<()> {
        if self.file.take().is_some() {
            remove(&self.lock.data_path())?;
            self.lock.hold(0)?;
        }
        self.append(data)
    }

    pub(super) fn truncate(&mut self) -> Result<()> {
        self.cut(0)?;
        self.hasher = Hasher::default();
        self.moved(0)
    }

    fn cut(&mut self, len: u64) -> Result<()> {
        if let Some(file) = &mut self.file {
            file.set_len(len)?;
            io::Seek::seek(file, io::SeekFrom::Start(len))?;
            self.lock.hold(len)?;
        }
        Ok(())
    }

    fn moved(&mut self, offset: u64) -> Result<()> {
        self.offset = offset;
        self.lock.update(|status| (status.offset, status.updated) = (offset, OffsetDateTime::now_utc()))?;
        Ok(())
    }
}

fn hash(file: &mut std::fs::File) -> Result<(Hasher, u64)> {
    let (mut hasher, mut offset, mut buffer) = (Hasher::default(), 0, vec![0; READ_BYTES]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((hasher, offset)),
            read => {
                hasher.update(&buffer[..read]);
                offset += read as u64;
            }
        }
    }
}

fn scan(dir: &Path, expiry: Duration, budget: &Budget) -> Result<States> {
    let (mut states, mut dropped, mut seen) = (States::new(), Vec::new(), HashSet::new());
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(stem) = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(".json").or(rest.strip_suffix(".data"))) else {
            continue;
        };
        // It has two files.
        if !seen.insert(stem.to_owned()) {
            continue;
        }
        match load(dir, stem, expiry, budget) {
            Some((name, state)) => match states.get(&name) {
                Some(known) if known.status.started > state.status.started => dropped.push(state.id),
                _ => dropped.extend(states.insert(name, state).map(|older| older.id)),
            },
            None => dropped.push(stem.to_owned()),
        }
    }
    for id in dropped {
        // Cut off while it was made or removed, too old, or more than the spool may hold now.
        tracing::info!(ingest.id = id, "forgetting an unfinished ingest of an earlier run");
        remove(&dir.join(format!("{PREFIX}{id}.json")))?;
        remove(&dir.join(format!("{PREFIX}{id}.data")))?;
    }
    Ok(states)
}

fn load(dir: &Path, id: &str, expiry: Duration, budget: &Budget) -> Option<(Name, State)> {
    let json = std::fs::read(dir.join(format!("{PREFIX}{id}.json"))).ok()?;
    let document: Document = serde_json::from_slice(&json).ok()?;
    let meta = std::fs::metadata(dir.join(format!("{PREFIX}{id}.data"))).ok()?;
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

fn remove(path: &Path) -> Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Internal(error.to_string()))?
}
