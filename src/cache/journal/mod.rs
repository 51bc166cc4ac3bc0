//! The journal: the durable queue of exports under `durability = "local"`.
//!
//! In: verified blobs, and manifests. They are acknowledged when their bytes are fsynced on remora's own disk (`acknowledge`).
//! Out: entries that are ready to be finished, which `background` does, however long the store is away and however often
//! remora ends meanwhile. Each entry is two files (`files`) and a line in memory. Blobs are ready in the order in which they
//! came, a manifest when none of the blobs that it names is left here. While an export still arrives, its blobs wait: the
//! build has the machine first. An entry ends when the store has it, or when its own bytes turn out to be damaged. What finds
//! no room here is not acknowledged: its export waits for the store, as it does under `"s3"`.

mod acknowledge;
mod files;

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::layout::{self, Item};
use super::{CacheConfig, Error, Result};
use crate::cache::blocking::blocking;
use crate::metrics::Metrics;
use crate::store::{Backoff, Body};
use crate::transfer::{Budget, Hold};
use crate::types::{Digest, Scope};

/// How long a blob waits for the manifest of its export before it goes to the store.
const HELD_BACK: Duration = Duration::from_secs(5);
/// Entries that may wait; about a KiB of memory each.
const MAX_ENTRIES: usize = 1 << 16;
/// The first pause between tries of an entry while the store does not answer, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// The pause between tries of an entry that the store refuses: only an operator can change that.
const REFUSED: Duration = Duration::from_secs(120);

/// What is acknowledged and not in the store yet. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Journal(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    /// The budget of the spool, and the part of it that the journal may take: the other part is for what still arrives.
    spool: Budget,
    share: Budget,
    /// With more bytes than these, no blob is held back.
    half: u64,
    metrics: Metrics,
    /// Tells that there is something new to do.
    added: Notify,
    state: Mutex<JournalState>,
}

#[derive(Debug, Default)]
struct JournalState {
    next_id: u64,
    /// In the order in which they were acknowledged.
    entries: BTreeMap<u64, Waiting>,
    /// How often an entry has each blob or manifest, and its size, by bucket and key.
    places: HashMap<Arc<str>, (usize, u64)>,
    bytes: u64,
    last_error: Option<String>,
}

/// A blob or a manifest.
#[derive(Debug)]
pub(super) struct JournalEntry {
    pub(super) scope: Scope,
    pub(super) item: Item,
    /// The digest of its bytes.
    pub(super) digest: Digest,
    size: u64,
    taken: OffsetDateTime,
    /// Bucket and key.
    place: Arc<str>,
}

#[derive(Debug)]
struct Waiting {
    entry: Arc<JournalEntry>,
    /// The blobs that a manifest names, and how many of them are known to be here no more.
    needs: (Vec<Digest>, usize),
    /// Its room. `None`: it was found at the start, when there was no room for it.
    _held: Option<(Hold, Hold)>,
    backoff: Backoff,
    not_before: Instant,
    /// It waits for the manifest of its export, and not for another try.
    is_held_back: bool,
    is_running: bool,
}

/// How much waits for the store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalStatus {
    /// Blobs and manifests.
    pub entries: usize,
    /// Their bytes.
    pub bytes: u64,
    /// When the oldest was acknowledged.
    #[serde(with = "time::serde::rfc3339::option")]
    pub oldest: Option<OffsetDateTime>,
    /// Why the last failed try has failed, since the journal was last empty.
    pub last_error: Option<String>,
}

impl JournalEntry {
    fn new(scope: Scope, item: Item, digest: Digest, size: u64, taken: OffsetDateTime) -> Self {
        let place = match &item {
            Item::Blob(digest) => layout::blob_place(&scope, digest),
            Item::Manifest(name) => layout::manifest_place(&scope, name),
        };
        Self { scope, item, digest, size, taken, place: place.into() }
    }
}

impl Journal {
    /// Opens the journal in `dir`, with what earlier runs left there. Its bytes count in `spool`, a budget of `max` bytes.
    pub(super) async fn open(dir: PathBuf, spool: Budget, max: u64, metrics: Metrics) -> Result<Self> {
        let scanned = dir.clone();
        let found = blocking(move || Ok(files::scan(&scanned)?)).await;
        let found = found.map_err(|error| Error::Internal(format!("data_dir: cannot read {}: {error}", dir.display())))?;
        let most = max / 4 * 3;
        let inner = Inner { dir, spool, share: Budget::new(most), half: most / 2, metrics, added: Notify::new(), state: Mutex::default() };
        let journal = Self(Arc::new(inner));
        if !found.is_empty() {
            tracing::info!("the journal has {} entries of earlier runs to finish", found.len());
        }
        for (id, entry, needs) in found {
            // It was acknowledged, so it stays, also where the bounds are tighter now.
            let held = journal.0.share.try_hold(entry.size).zip(journal.0.spool.try_hold(entry.size));
            journal.insert(id, entry, needs, held);
        }
        journal.state().hasten(|_| true);
        Ok(journal)
    }

    /// Whether a blob of `bytes` would find room now.
    pub(super) fn has_room(&self, bytes: u64) -> bool {
        self.0.share.try_hold(bytes).is_some() && self.0.spool.try_hold(bytes).is_some()
    }

    /// The size of a blob that is here.
    pub(super) fn size_of(&self, scope: &Scope, digest: &Digest) -> Option<u64> {
        self.state().places.get(layout::blob_place(scope, digest).as_str()).map(|(_, size)| *size)
    }

    /// Whether nothing is left to do.
    pub(super) fn is_empty(&self) -> bool {
        self.state().entries.is_empty()
    }

    /// How much waits.
    pub(super) fn status(&self) -> JournalStatus {
        let state = self.state();
        JournalStatus {
            entries: state.entries.len(),
            bytes: state.bytes,
            oldest: state.entries.values().next().map(|oldest| oldest.entry.taken),
            last_error: state.last_error.clone(),
        }
    }

    /// Makes an entry durable. Waits for room at most as long as `patience`.
    ///
    /// # Errors
    /// [`Error::Exhausted`] where there is none, [`Error::Internal`] where the disk fails.
    async fn take(&self, entry: JournalEntry, needs: Vec<Digest>, body: Body, patience: Duration) -> Result<()> {
        let full = || Error::Exhausted(format!("{}: the journal has no room, by limits.max_spool_bytes", entry.item));
        if self.state().entries.len() >= MAX_ENTRIES {
            return Err(full());
        }
        let share = self.0.share.hold(entry.size, patience).await.ok_or_else(full)?;
        let spool = self.0.spool.hold(entry.size, patience).await.ok_or_else(full)?;
        let journal = self.clone();
        // This is done also where the caller gives up meanwhile: what is on disk must be in memory, too.
        blocking(move || {
            let id = journal.next_id();
            files::write(&journal.0.dir, id, &entry, &body)?;
            journal.insert(id, entry, needs, Some((share, spool)));
            journal.0.added.notify_one();
            Ok(())
        })
        .await
    }

    fn next_id(&self) -> u64 {
        let mut state = self.state();
        state.next_id += 1;
        state.next_id
    }

    fn insert(&self, id: u64, entry: JournalEntry, needs: Vec<Digest>, held: Option<(Hold, Hold)>) {
        let mut state = self.state();
        state.next_id = state.next_id.max(id);
        let was_short = state.bytes > self.0.half;
        state.bytes += entry.size;
        let is_short = state.bytes > self.0.half;
        state.places.entry(Arc::clone(&entry.place)).or_insert((0, entry.size)).0 += 1;
        let is_blob = matches!(entry.item, Item::Blob(_));
        if is_short && !was_short {
            state.hasten(|_| true);
        } else if !is_blob {
            let named: HashSet<String> = needs.iter().map(|digest| layout::blob_place(&entry.scope, digest)).collect();
            state.hasten(|other| named.contains(&*other.place));
        }
        let is_held_back = is_blob && !is_short;
        let not_before = if is_held_back { Instant::now() + HELD_BACK } else { Instant::now() };
        let entry = entry.into();
        let backoff = Backoff::new(PAUSES.0, PAUSES.1);
        state.entries.insert(id, Waiting { entry, needs: (needs, 0), _held: held, backoff, not_before, is_held_back, is_running: false });
        self.show(&state);
    }

    /// The next entry that can be tried. Manifests of one name go in their order.
    pub(super) fn next(&self) -> Option<(u64, Arc<JournalEntry>)> {
        let mut state = self.state();
        let now = Instant::now();
        let mut names = HashSet::new();
        let JournalState { entries, places, .. } = &mut *state;
        for (id, waiting) in entries {
            let is_first_of_name = matches!(waiting.entry.item, Item::Blob(_)) || names.insert(Arc::clone(&waiting.entry.place));
            if is_first_of_name && !waiting.is_running && waiting.not_before <= now && waiting.has_what_it_needs(places) {
                waiting.is_running = true;
                return Some((*id, Arc::clone(&waiting.entry)));
            }
        }
        None
    }

    /// An entry's bytes.
    pub(super) fn body(&self, id: u64, entry: &JournalEntry) -> Body {
        Body::File { path: files::data_path(&self.0.dir, id), offset: 0, len: entry.size }
    }

    /// Ends an entry.
    pub(super) async fn remove(&self, id: u64) {
        let dir = self.0.dir.clone();
        if let Err(error) = blocking(move || Ok(files::remove(&dir, id)?)).await {
            tracing::warn!(%error, "could not remove an entry of the journal; the next start finishes it again: {error}");
        }
        let mut state = self.state();
        let Some(Waiting { entry, .. }) = state.entries.remove(&id) else { return };
        state.bytes -= entry.size;
        if let Some((count, _)) = state.places.get_mut(&entry.place) {
            *count -= 1;
            if *count == 0 {
                state.places.remove(&entry.place);
            }
        }
        if state.entries.is_empty() {
            state.last_error = None;
            tracing::info!("the journal is empty: the store has all that was acknowledged");
        }
        self.show(&state);
    }

    /// Records that a try has failed. There will be another.
    pub(super) fn failed(&self, id: u64, error: &Error) {
        let mut state = self.state();
        let Some(waiting) = state.entries.get_mut(&id) else { return };
        let is_passing = matches!(error, Error::Unavailable(_) | Error::Exhausted(_));
        let pause = if is_passing { waiting.backoff.pause() } else { REFUSED };
        waiting.is_running = false;
        waiting.is_held_back = false;
        waiting.not_before = Instant::now() + pause;
        let text = format!("{}: {error}", waiting.entry.item);
        if is_passing {
            tracing::debug!(%error, "the journal cannot finish {text}");
        } else {
            tracing::warn!(%error, "the journal cannot finish {text}; it is tried again every {REFUSED:?}");
        }
        state.last_error = Some(text);
    }

    /// Resolves when there is something new to do.
    pub(super) async fn added(&self) {
        self.0.added.notified().await;
    }

    fn show(&self, state: &JournalState) {
        self.0.metrics.journal(state.entries.len(), state.bytes);
    }

    fn state(&self) -> MutexGuard<'_, JournalState> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl JournalState {
    /// Lets some of the entries that are held back go.
    fn hasten(&mut self, which: impl Fn(&JournalEntry) -> bool) {
        for waiting in self.entries.values_mut().filter(|waiting| waiting.is_held_back && which(&waiting.entry)) {
            waiting.is_held_back = false;
            waiting.not_before = Instant::now();
        }
    }
}

impl Waiting {
    /// Whether no blob that it names is here any more.
    fn has_what_it_needs(&mut self, places: &HashMap<Arc<str>, (usize, u64)>) -> bool {
        let (needs, met) = &mut self.needs;
        let is_here = |digest: &Digest| places.contains_key(layout::blob_place(&self.entry.scope, digest).as_str());
        *met += needs[*met..].iter().take_while(|digest| !is_here(digest)).count();
        *met == needs.len()
    }
}

/// The blobs that a manifest names.
fn needs(config: &CacheConfig) -> Vec<Digest> {
    config.blobs().into_keys().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOM: u64 = 4 << 20;

    async fn journal(dir: &std::path::Path) -> Journal {
        Journal::open(dir.join("journal"), Budget::new(ROOM), ROOM, Metrics::default()).await.unwrap()
    }

    /// Takes an entry of so many bytes.
    async fn take(journal: &Journal, item: Item, size: usize, needs: Vec<Digest>) {
        let scope = Scope::new("bucket".parse().unwrap(), "").unwrap();
        let bytes = bytes::Bytes::from(vec![0; size]);
        let entry = JournalEntry::new(scope, item, Digest::of(&bytes), size as u64, OffsetDateTime::now_utc());
        journal.take(entry, needs, Body::Bytes(bytes), Duration::ZERO).await.unwrap();
    }

    #[tokio::test]
    async fn blobs_wait_for_their_manifest_and_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let journal = journal(dir.path()).await;
        let [own, other] = [b"own", b"oth"].map(|bytes| Digest::of(bytes));
        take(&journal, Item::Blob(own), 10, vec![]).await;
        take(&journal, Item::Blob(other), 10, vec![]).await;
        assert!(journal.next().is_none());
        take(&journal, Item::Manifest("app".parse().unwrap()), 10, vec![own]).await;
        assert_eq!(journal.next().unwrap().1.item, Item::Blob(own));
        assert!(journal.next().is_none());
    }

    #[tokio::test]
    async fn blobs_wait_for_nothing_where_room_is_short_or_after_a_start() {
        let dir = tempfile::tempdir().unwrap();
        let half_full = journal(dir.path()).await;
        take(&half_full, Item::Blob(Digest::of(b"small")), 10, vec![]).await;
        assert!(half_full.next().is_none());
        take(&half_full, Item::Blob(Digest::of(b"large")), 2 << 20, vec![]).await;
        assert!(half_full.next().is_some() && half_full.next().is_some());
        drop(half_full);
        let next_start = journal(dir.path()).await;
        assert!(next_start.next().is_some() && next_start.next().is_some());
    }
}
