//! Read-ahead: who reads a layer will read those below and above it, which are fetched into the disk cache
//! while the builder unpacks what it has.
//!
//! The manifest that a build was served tells which they are. Below a layer all of them are needed; above it
//! they are predicted up to the first fork, behind which nothing says where the build goes. A fetch for
//! nobody takes one connection, none of the memory for transfers, and begins only while few fetches are
//! under way; when somebody asks for its blob it becomes like any other. What waits unread is bounded. Without a disk
//! cache, `opened` asks the manifest what comes next for the builds that read one layer at a time.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::disk::Source;
use crate::cache::disk::{Disk, DiskSettings};
use crate::cache::known::Lru;
use crate::cache::{Cache, CacheConfig, layout};
use crate::transfer::Budget;
use crate::types::{Digest, Grant, ManifestName, Scope};

/// Manifests that are remembered.
const MAX_MANIFESTS: usize = 64;
/// Layers of one; a longer manifest is not predicted from.
const MAX_LAYERS: usize = 2048;
/// Blobs that wait for their fetch; more are not fetched ahead.
const MAX_QUEUED: usize = 256;
/// A build that has not come so far within this time needs no help.
const STALE: Duration = Duration::from_secs(60);

/// What is predicted, and what waits to be fetched.
#[derive(Debug)]
pub(in crate::cache) struct ReadAhead {
    manifests: Mutex<Lru<Arc<Chains>>>,
    queue: Mutex<VecDeque<Expected>>,
    /// Of what is fetched and not read.
    budget: Budget,
    max: u64,
}

/// The layers of a manifest.
#[derive(Debug, Default)]
struct Chains {
    layers: Vec<Link>,
    /// Where each blob is among them.
    places: HashMap<Digest, usize>,
}

#[derive(Debug)]
struct Link {
    digest: Digest,
    size: u64,
    below: Option<usize>,
    /// The only layer on top of it.
    above: Above,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Above {
    Nothing,
    One(usize),
    Fork,
}

#[derive(Debug)]
struct Expected {
    source: Source,
    size: u64,
    since: Instant,
}

impl ReadAhead {
    pub(in crate::cache) fn new(settings: Option<&DiskSettings>) -> Self {
        let max = settings.map_or(0, |settings| settings.read_ahead);
        Self { manifests: Mutex::new(Lru::new(MAX_MANIFESTS)), queue: Mutex::default(), budget: Budget::new(max), max }
    }

    /// Takes note of a manifest that a build gets.
    pub(in crate::cache) fn learn(&self, scope: &Scope, name: &ManifestName, config: &CacheConfig) {
        if config.layers().len() <= MAX_LAYERS {
            self.manifests().insert(layout::manifest_place(scope, name), Arc::new(Chains::of(config)));
        }
    }

    fn manifests(&self) -> MutexGuard<'_, Lru<Arc<Chains>>> {
        self.manifests.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn queue(&self) -> MutexGuard<'_, VecDeque<Expected>> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Chains {
    fn of(config: &CacheConfig) -> Self {
        let mut chains = Self::default();
        for (index, layer) in config.layers().iter().enumerate() {
            let Ok(digest) = layer.blob.parse() else { return Self::default() };
            let size = layer.annotations.as_ref().map_or(0, |annotations| u64::try_from(annotations.size).unwrap_or(0));
            chains.layers.push(Link { digest, size, below: usize::try_from(layer.parent).ok(), above: Above::Nothing });
            chains.places.entry(digest).or_insert(index);
        }
        for index in 0..chains.layers.len() {
            if let Some(below) = chains.layers[index].below.and_then(|below| chains.layers.get_mut(below)) {
                below.above = if below.above == Above::Nothing { Above::One(index) } else { Above::Fork };
            }
        }
        chains
    }

    /// What is read with a blob, the lowest layer first: in the order in which a builder unpacks.
    fn neighbours(&self, digest: &Digest) -> Vec<(Digest, u64)> {
        let Some(layer) = self.places.get(digest).map(|&index| &self.layers[index]) else { return Vec::new() };
        let link = |index: usize| self.layers.get(index);
        let below = std::iter::successors(layer.below.and_then(link), |layer| layer.below.and_then(link));
        let mut neighbours: Vec<&Link> = below.take(self.layers.len()).collect();
        neighbours.reverse();
        let below = neighbours.into_iter().map(|link| (link.digest, link.size));
        below.chain(self.above(digest)).filter(|(other, _)| other != digest).collect()
    }

    /// The layers on top of a blob up to the first fork, the lowest first, with their sizes in bytes.
    fn above(&self, digest: &Digest) -> impl Iterator<Item = (Digest, u64)> {
        let next = |layer: &Link| match layer.above {
            Above::One(index) => self.layers.get(index),
            Above::Nothing | Above::Fork => None,
        };
        let layer = self.places.get(digest).and_then(|&index| self.layers.get(index));
        let above = std::iter::successors(layer.and_then(next), move |layer| next(layer));
        above.take(self.layers.len()).map(|link| (link.digest, link.size))
    }
}

impl Cache {
    /// What a build will read on top of a blob, by the manifest that it was served.
    pub(in crate::cache) fn above(&self, grant: &Grant, digest: &Digest) -> Vec<Digest> {
        self.chains(grant).map_or_else(Vec::new, |chains| chains.above(digest).map(|(digest, _)| digest).collect())
    }

    /// Those of the manifest that a build imports.
    fn chains(&self, grant: &Grant) -> Option<Arc<Chains>> {
        let name = grant.names()?.first()?;
        self.0.read_ahead.manifests().get(&layout::manifest_place(grant.scope(), name)).cloned()
    }

    /// A blob is being read whole, from disk or by a fetch that is under way: its neighbours will be, too.
    pub(in crate::cache) fn expect_more(&self, grant: &Grant, digest: &Digest) {
        let Some(disk) = self.0.disk.as_ref().filter(|_| self.0.read_ahead.max > 0) else { return };
        let Some(chains) = self.chains(grant) else { return };
        let Ok(store) = self.store(grant) else { return };
        let scope = Arc::new(grant.scope().clone());
        {
            let mut queue = self.0.read_ahead.queue();
            for (digest, size) in chains.neighbours(digest) {
                let is_queued = queue.iter().any(|expected| expected.source.digest == digest && *expected.source.scope == *scope);
                if queue.len() < MAX_QUEUED && !is_queued && size <= self.0.read_ahead.max && !disk.contains(&digest) {
                    let source = Source { scope: Arc::clone(&scope), store: Arc::clone(&store), digest };
                    queue.push_back(Expected { source, size, since: Instant::now() });
                }
            }
        }
        self.read_ahead(disk);
    }

    /// Begins to fetch what is expected, as far as there is room for it.
    pub(in crate::cache) fn read_ahead(&self, disk: &Arc<Disk>) {
        let most = disk.settings().read_ahead_fetches;
        while disk.fills.count() < most && !self.0.shutdown.is_closing() {
            let Some(expected) = self.0.read_ahead.queue().pop_front() else { return };
            let Expected { source, size, since } = &expected;
            if disk.contains(&source.digest) || !disk.may_take(*size) || since.elapsed() > STALE {
                continue;
            }
            let Some(hold) = self.0.read_ahead.budget.try_hold(*size) else {
                // Until something is read, or dropped.
                self.0.read_ahead.queue().push_front(expected);
                return;
            };
            let begun = disk.fills.begin_ahead(&layout::blob_place(&source.scope, &source.digest), &source.digest, most);
            if let Some(fill) = begun {
                tracing::debug!(blob.digest = %source.digest, "read-ahead: fetching blob {}", source.digest);
                self.0.shutdown.spawn(self.clone().fill(Arc::clone(disk), fill, source.clone(), Some(hold)));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A manifest whose layers stand on these.
    fn chains(below: &[i64]) -> Chains {
        let layer = |(index, below): (usize, &i64)| {
            let (blob, diff) = (Digest::of(&[u8::try_from(index).unwrap()]), Digest::of(b"diff"));
            serde_json::json!({ "blob": blob.to_string(), "parent": below, "annotations": { "size": index, "diffID": diff.to_string() } })
        };
        let layers: Vec<_> = below.iter().enumerate().map(layer).collect();
        let config = CacheConfig::parse(serde_json::json!({ "layers": layers }).to_string().as_bytes()).unwrap();
        Chains::of(&config)
    }

    fn neighbours(below: &[i64], of: u8) -> Vec<u64> {
        chains(below).neighbours(&Digest::of(&[of])).into_iter().map(|(_, size)| size).collect()
    }

    #[test]
    fn a_chain_is_predicted_from_its_bottom_up_and_to_the_first_fork() {
        // 0 - 1 - 2 - 3, and another chain.
        let one = [-1, 0, 1, 2, -1];
        assert_eq!(neighbours(&one, 1), [0, 2, 3]);
        assert_eq!(neighbours(&one, 3), [0, 1, 2]);
        assert_eq!(neighbours(&one, 4), [] as [u64; 0]);
        // 0 - 1 - (2 - 3 | 4)
        let forked = [-1, 0, 1, 2, 1];
        assert_eq!(neighbours(&forked, 0), [1]);
        assert_eq!(neighbours(&forked, 4), [0, 1]);
        assert_eq!(neighbours(&forked, 2), [0, 1, 3]);
        assert_eq!(neighbours(&forked, 9), [] as [u64; 0], "a blob that it does not name");
    }
}
