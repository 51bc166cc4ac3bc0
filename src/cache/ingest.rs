//! Ingests: blobs that are written piece by piece under a name (`ref`), as containerd's content API has it.
//!
//! An ingest outlives its writer and the process: its bytes are in the spool, its state beside them. At
//! most one writer holds it at a time.

use std::collections::{BTreeMap, HashMap};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::fs::File;
use tokio::io::{AsyncSeekExt, AsyncWriteExt};

use super::blobs::check_content;
use super::labels::check_labels;
use super::{Cache, Error, Result, Settings, spool};
use crate::store::Body;
use crate::types::{Digest, Grant, Hasher, Right, Scope};

/// The names of an ingest's two files begin so, and end in `.data` and `.json`.
const PREFIX: &str = "ingest-";
/// containerd has no bound; this one keeps the state file small.
const MAX_REF_BYTES: usize = 4096;
const READ_BYTES: usize = 1 << 20;

/// How far an ingest is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IngestStatus {
    /// Its name.
    pub reference: String,
    /// Bytes received.
    pub offset: u64,
    /// Bytes announced; 0: unknown.
    pub total: u64,
    /// The digest announced.
    pub expected: Option<Digest>,
    /// When it began.
    pub started: OffsetDateTime,
    /// When it last grew.
    pub updated: OffsetDateTime,
}

/// What of an ingest survives a restart; `offset` is the size of the data file.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct State {
    reference: String,
    /// Where it belongs: ingests of one scope do not exist for another.
    scope: String,
    total: u64,
    expected: Option<String>,
    #[serde(with = "time::serde::rfc3339")]
    started: OffsetDateTime,
    #[serde(with = "time::serde::rfc3339")]
    updated: OffsetDateTime,
    #[serde(skip)]
    offset: u64,
    #[serde(skip)]
    open: bool,
}

impl State {
    fn status(&self) -> IngestStatus {
        IngestStatus {
            reference: self.reference.clone(),
            offset: self.offset,
            total: self.total,
            expected: self.expected.as_ref().and_then(|text| text.parse().ok()),
            started: self.started,
            updated: self.updated,
        }
    }
}

/// All ingests, by the name of their files.
#[derive(Debug)]
pub(super) struct Registry {
    dir: PathBuf,
    states: Arc<Mutex<HashMap<String, State>>>,
}

impl Registry {
    pub(super) async fn open(settings: &Settings) -> Result<Self> {
        let dir = settings.spool_dir.clone();
        spool::prepare(&dir).await?;
        let (scanned, expiry) = (dir.clone(), settings.ingest_expiry);
        let states = blocking(move || scan(&scanned, expiry)).await?;
        Ok(Self { dir, states: Arc::new(Mutex::new(states)) })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, State>> {
        self.states.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn data_path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{PREFIX}{id}.data"))
    }

    fn state_path(&self, id: &str) -> PathBuf {
        self.dir.join(format!("{PREFIX}{id}.json"))
    }

    async fn forget(&self, id: &str) -> Result<()> {
        self.lock().remove(id);
        remove(&self.data_path(id)).await?;
        remove(&self.state_path(id)).await
    }

    async fn save(&self, id: &str, state: &State) -> Result<()> {
        let json = serde_json::to_vec(state).map_err(|error| Error::Internal(error.to_string()))?;
        Ok(tokio::fs::write(self.state_path(id), json).await?)
    }
}

/// An ingest's name on disk: the same for the same ref in the same scope, and safe whatever the ref is.
fn id_of(scope: &str, reference: &str) -> String {
    Digest::of(format!("{}:{scope}{reference}", scope.len()).as_bytes()).to_string()["sha256:".len()..].to_owned()
}

fn scope_text(scope: &Scope) -> String {
    format!("{scope}#{}", scope.blobs_prefix())
}

fn scan(dir: &Path, expiry: std::time::Duration) -> Result<HashMap<String, State>> {
    let mut states = HashMap::new();
    for entry in std::fs::read_dir(dir)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        let Some(id) = name.strip_prefix(PREFIX).and_then(|rest| rest.strip_suffix(".json")) else { continue };
        let (state_path, data_path) = (dir.join(&name), dir.join(format!("{PREFIX}{id}.data")));
        let state = std::fs::read(&state_path).ok().and_then(|json| serde_json::from_slice::<State>(&json).ok());
        let size = std::fs::metadata(&data_path).map(|meta| meta.len());
        match (state, size) {
            (Some(mut state), Ok(size)) if OffsetDateTime::now_utc() - state.updated < expiry => {
                state.offset = size;
                states.insert(id.to_owned(), state);
            }
            _ => {
                // Cut off while it was made, or too old.
                tracing::info!(ingest.id = id, "forgetting an unfinished ingest of an earlier run");
                let _ = std::fs::remove_file(&state_path);
                let _ = std::fs::remove_file(&data_path);
            }
        }
    }
    Ok(states)
}

/// The one writer of an ingest. The ingest is free for another one when this is dropped.
#[derive(Debug)]
pub struct Ingest {
    cache: Cache,
    grant: Grant,
    id: String,
    state: State,
    file: File,
    hasher: Hasher,
}

impl Cache {
    /// Opens an ingest for writing; takes it up where its last writer left it.
    ///
    /// # Errors
    /// [`Error::Locked`] while another writer has it, [`Error::AlreadyExists`] where the expected blob is
    /// stored, [`Error::Invalid`] for an empty or very long ref, [`Error::Exhausted`], [`Error::Denied`].
    pub async fn open_ingest(&self, grant: &Grant, reference: &str, total: u64, expected: Option<Digest>) -> Result<Ingest> {
        grant.check(Right::Write)?;
        if reference.is_empty() || reference.len() > MAX_REF_BYTES {
            return Err(Error::Invalid(format!("an ingest ref has 1 to {MAX_REF_BYTES} bytes")));
        }
        if let Some(digest) = expected {
            match self.stat_blob(grant, &digest).await {
                Ok(_) => {
                    grant.usage().blob_reused();
                    return Err(Error::AlreadyExists(format!("blob {digest}")));
                }
                Err(Error::NotFound(_)) => {}
                Err(error) => return Err(error),
            }
        }
        let registry = &self.0.ingests;
        let scope = scope_text(grant.scope());
        let id = id_of(&scope, reference);
        let state = self.lock_ingest(&id, || {
            let now = OffsetDateTime::now_utc();
            State {
                reference: reference.to_owned(),
                scope,
                total,
                expected: expected.map(|digest| digest.to_string()),
                started: now,
                updated: now,
                offset: 0,
                open: true,
            }
        })?;
        let unlock = Unlock { states: &registry.states, id: &id, armed: true };
        registry.save(&id, &state).await?;
        let path = registry.data_path(&id);
        let (std_file, hasher, offset) = blocking(move || open_and_hash(&path)).await?;
        let mut file = File::from_std(std_file);
        file.set_max_buf_size(READ_BYTES);
        unlock.disarm();
        Ok(Ingest { cache: self.clone(), grant: grant.clone(), id, state: State { offset, ..state }, file, hasher })
    }

    fn lock_ingest(&self, id: &str, new: impl FnOnce() -> State) -> Result<State> {
        let max = self.0.settings.max_open_ingests;
        let mut states = self.0.ingests.lock();
        if let Some(state) = states.get_mut(id) {
            if state.open {
                return Err(Error::Locked(format!("ingest {} has a writer", state.reference)));
            }
            state.open = true;
            return Ok(state.clone());
        }
        if states.len() >= max {
            return Err(Error::Exhausted(format!("{max} ingests are open; limits.max_open_ingests allows no more")));
        }
        let state = new();
        states.insert(id.to_owned(), state.clone());
        Ok(state)
    }

    /// How far an ingest is.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Denied`].
    pub fn ingest_status(&self, grant: &Grant, reference: &str) -> Result<IngestStatus> {
        grant.check(Right::Write)?;
        let states = self.0.ingests.lock();
        let state = states.get(&id_of(&scope_text(grant.scope()), reference));
        state.map(State::status).ok_or_else(|| Error::NotFound(format!("ingest {reference}")))
    }

    /// All ingests of the scope.
    ///
    /// # Errors
    /// [`Error::Denied`].
    pub fn ingest_statuses(&self, grant: &Grant) -> Result<Vec<IngestStatus>> {
        grant.check(Right::Write)?;
        let scope = scope_text(grant.scope());
        let mut all: Vec<_> = self.0.ingests.lock().values().filter(|state| state.scope == scope).map(State::status).collect();
        all.sort_by(|left, right| left.reference.cmp(&right.reference));
        Ok(all)
    }

    /// Forgets an ingest and its bytes.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Locked`] while a writer has it, [`Error::Denied`].
    pub async fn abort_ingest(&self, grant: &Grant, reference: &str) -> Result<()> {
        grant.check(Right::Write)?;
        let id = id_of(&scope_text(grant.scope()), reference);
        match self.0.ingests.lock().get(&id) {
            None => return Err(Error::NotFound(format!("ingest {reference}"))),
            Some(state) if state.open => return Err(Error::Locked(format!("ingest {reference} has a writer"))),
            Some(_) => {}
        }
        self.0.ingests.forget(&id).await
    }
}

impl Ingest {
    /// How far it is.
    #[must_use]
    pub fn status(&self) -> IngestStatus {
        self.state.status()
    }

    /// The digest of what was received so far.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.hasher.clone().finish()
    }

    /// Appends. `offset` must be where the ingest is.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for another offset, [`Error::Exhausted`] with the disk full.
    pub async fn write(&mut self, offset: u64, data: &Bytes) -> Result<()> {
        if offset != self.state.offset {
            return Err(Error::OutOfRange(format!("write at {offset}; ingest {} is at {}", self.state.reference, self.state.offset)));
        }
        self.file.write_all(data).await?;
        self.hasher.update(data);
        self.moved(offset + data.len() as u64);
        Ok(())
    }

    /// Throws away what was received.
    ///
    /// # Errors
    /// [`Error::Internal`] where the spool fails.
    pub async fn restart(&mut self) -> Result<()> {
        self.file.flush().await?;
        self.file.set_len(0).await?;
        self.file.seek(io::SeekFrom::Start(0)).await?;
        self.hasher = Hasher::default();
        self.moved(0);
        Ok(())
    }

    /// Announces the blob's size.
    pub fn announce(&mut self, total: u64) {
        self.state.total = total;
    }

    fn moved(&mut self, offset: u64) {
        self.state.offset = offset;
        self.state.updated = OffsetDateTime::now_utc();
        if let Some(state) = self.cache.0.ingests.lock().get_mut(&self.id) {
            (state.offset, state.updated, state.total) = (offset, self.state.updated, self.state.total);
        }
    }

    /// Makes the bytes visible as a blob, if they have the `size` and digest `expected` (where given).
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], after which the ingest is gone; [`Error::Precondition`] for a wrong size
    /// or digest, [`Error::Invalid`] for labels above containerd's bounds, or the store's, after which
    /// the ingest is as it was.
    pub async fn commit(mut self, size: Option<u64>, expected: Option<Digest>, labels: BTreeMap<String, String>) -> Result<(Digest, u64)> {
        let (digest, offset) = (self.digest(), self.state.offset);
        check_content(&expected.unwrap_or(digest), size.unwrap_or(offset), &digest, offset)?;
        check_labels(&labels)?;
        self.file.flush().await?;
        let (cache, grant, id) = (self.cache.clone(), self.grant.clone(), self.id.clone());
        match cache.stat_blob(&grant, &digest).await {
            Ok(_) => {
                cache.0.ingests.forget(&id).await?;
                return Err(Error::AlreadyExists(format!("blob {digest}")));
            }
            Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        // Labels first: a blob without its labels would be seen, labels without a blob are not.
        cache.write_labels(&grant, &digest, labels).await?;
        let body = Body::File { path: cache.0.ingests.data_path(&id), offset: 0, len: offset };
        cache.publish_blob(&grant, &digest, body).await?;
        cache.0.ingests.forget(&id).await?;
        Ok((digest, offset))
    }

    /// Lets the ingest go, keeping its bytes: what is written is on its way to the disk when this returns.
    pub async fn close(mut self) {
        let saved = async {
            self.file.flush().await?;
            self.cache.0.ingests.save(&self.id, &self.state).await
        };
        if let Err(error) = saved.await {
            tracing::warn!(ingest.reference = self.state.reference, %error, "could not save an ingest's state");
        }
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if let Some(state) = self.cache.0.ingests.lock().get_mut(&self.id) {
            state.open = false;
        }
    }
}

/// Frees an ingest whose opening was cut off.
struct Unlock<'a> {
    states: &'a Mutex<HashMap<String, State>>,
    id: &'a str,
    armed: bool,
}

impl Unlock<'_> {
    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for Unlock<'_> {
    fn drop(&mut self) {
        if self.armed
            && let Some(state) = self.states.lock().unwrap_or_else(PoisonError::into_inner).get_mut(self.id)
        {
            state.open = false;
        }
    }
}

fn open_and_hash(path: &Path) -> Result<(std::fs::File, Hasher, u64)> {
    let mut file = std::fs::OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)?;
    let (mut hasher, mut offset, mut buffer) = (Hasher::default(), 0, vec![0; READ_BYTES]);
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok((file, hasher, offset)),
            read => {
                hasher.update(&buffer[..read]);
                offset += read as u64;
            }
        }
    }
}

async fn remove(path: &Path) -> Result<()> {
    match tokio::fs::remove_file(path).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Internal(error.to_string()))?
}
