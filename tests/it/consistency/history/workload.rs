//! Writers, readers, deleters and a killer, all at once, and what they saw.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use remora::cache::CacheConfig;
use remora::proto::cache::{DeleteRequest, GetRequest, PutRequest};
use remora::types::Digest;
use serde_json::json;

use super::checker::violations;
use super::record::{Event, NEVER, What};
use crate::consistency::client::{Clients, End, Store, Through, content_end, start};
use crate::support::faults::{Fault, FaultProxy, Rule, seed};
use crate::support::minio::Minio;
use crate::support::sidecar::Sidecar;

const NAMES: [&str; 3] = ["app", "base", "team/tools"];
const WORKERS: u64 = 8;
const KILLS: usize = 4;
/// The work is done after this many calls whose end is known.
const EVENTS: usize = 500;
/// What a worker waits where nobody answers.
const PAUSE: Duration = Duration::from_millis(20);
/// Far longer than all of it takes.
const HANGS: Duration = Duration::from_secs(300);
/// Bytes of the blobs; the last goes to the s3 endpoint in parts.
const SIZES: [usize; 12] = [1, 100, 1000, 5000, 20_000, 50_000, 70_000, 100_000, 200_000, 400_000, 900_000, 6 << 20];
/// The share of requests to MinIO that are harmed.
const RATE: f64 = 0.05;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_a_directory_all_promises_are_kept() {
    let (sidecar, clients) = start(&Store::Directory);
    keep_promises(sidecar, clients, seed(), || ()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_minio_all_promises_are_kept() {
    let minio = Minio::shared();
    let seed = seed();
    let bucket = minio.new_bucket();
    let proxy = FaultProxy::start(minio.endpoint(), seed);
    let (sidecar, clients) = start(&Store::Minio { url: proxy.url(), bucket: &bucket, disk_cache: true });
    proxy.set_rules(Rule::mix(RATE, &[Fault::SlowDown, Fault::Reset]));
    keep_promises(sidecar, clients, seed, || proxy.set_rules(Vec::new())).await;
}

/// One of the workers that run at the same time.
struct Worker {
    clients: Clients,
    dice: StdRng,
    blobs: Arc<Vec<(Digest, Vec<u8>)>>,
    clock: Instant,
    history: Arc<Mutex<Vec<Event>>>,
}

async fn keep_promises(mut sidecar: Sidecar, clients: Clients, seed: u64, heal: impl FnOnce()) {
    let mut dice = StdRng::seed_from_u64(seed);
    let blobs: Vec<_> = SIZES.map(|size| blob(&mut dice, size)).into();
    let blobs = Arc::new(blobs);
    let history = Arc::default();
    let clock = Instant::now();
    let worker = |number: u64| Worker {
        clients: clients.clone(),
        dice: StdRng::seed_from_u64(seed.wrapping_add(number)),
        blobs: Arc::clone(&blobs),
        clock,
        history: Arc::clone(&history),
    };
    let work = join_all((1..=WORKERS).map(|number| worker(number).work()));
    let watcher = worker(0);
    let killer = async {
        for kill in 1..=KILLS {
            let moment = dice.random_range(EVENTS * (kill - 1)..EVENTS * kill) / (KILLS + 1);
            while watcher.known() < moment {
                tokio::time::sleep(PAUSE).await;
            }
            // The workers go on meanwhile, and find nobody.
            tokio::task::block_in_place(|| sidecar.restart());
        }
    };
    tokio::time::timeout(HANGS, async { tokio::join!(work, killer) }).await.expect("a call hangs");
    heal();
    worker(0).look_at_everything().await;

    let history = std::mem::take(&mut *history.lock().unwrap());
    let wrong = violations(&history);
    assert!(wrong.is_empty(), "{} violations in {} events, the first: {}", wrong.len(), history.len(), wrong[0]);
    assert_something_happened(&history);
}

fn blob(dice: &mut StdRng, size: usize) -> (Digest, Vec<u8>) {
    let mut bytes = vec![0; size];
    dice.fill(&mut bytes);
    (Digest::of(&bytes), bytes)
}

/// A history in which nothing is found proves nothing.
fn assert_something_happened(history: &[Event]) {
    let mut kinds = BTreeMap::new();
    for event in history {
        let kind = match &event.what {
            What::Wrote { acknowledged: true, .. } => "wrote",
            What::Read { found: Some(_), .. } => "read",
            What::Read { found: None, .. } => "missed",
            What::Deleted { .. } => "deleted",
            What::Put { acknowledged: true, .. } => "put",
            What::Got { found: Some(_), .. } => "got",
            What::Removed { .. } => "removed",
            _ => "other",
        };
        *kinds.entry(kind).or_insert(0) += 1;
    }
    for kind in ["wrote", "read", "missed", "deleted", "put", "got", "removed"] {
        assert!(kinds.get(kind).is_some_and(|count| *count >= 3), "{kind}: {kinds:?}");
    }
}

impl Worker {
    async fn work(mut self) {
        while self.known() < EVENTS {
            let through = if self.dice.random_bool(0.5) { Through::S3 } else { Through::Content };
            let index = self.dice.random_range(0..self.blobs.len());
            let name = NAMES[self.dice.random_range(0..NAMES.len())];
            match self.dice.random_range(0..100) {
                0..30 => self.write(through, index).await,
                30..36 => self.write_wrongly(through, index).await,
                36..66 => self.read(through, index).await,
                66..72 => self.delete(through, index).await,
                72..84 => self.put(name).await,
                84..98 => self.get(name).await,
                _ => self.remove(name).await,
            }
        }
    }

    /// Reads every manifest and then every blob, when nobody writes any more.
    async fn look_at_everything(mut self) {
        for name in NAMES {
            self.get(name).await;
        }
        for index in 0..self.blobs.len() {
            self.read(Through::S3, index).await;
            self.read(Through::Content, index).await;
        }
    }

    fn now(&self) -> u64 {
        self.clock.elapsed().as_nanos() as u64
    }

    fn record(&self, begun: u64, ended: u64, what: What) {
        self.history.lock().unwrap().push(Event { begun, ended, what });
    }

    /// When a change that ended so is over.
    async fn over(&self, end: End) -> u64 {
        if end != End::Unknown {
            return self.now();
        }
        tokio::time::sleep(PAUSE).await;
        NEVER
    }

    /// How many of the calls so far have a known end.
    fn known(&self) -> usize {
        self.history.lock().unwrap().iter().filter(|event| event.ended != NEVER).count()
    }

    async fn write(&mut self, through: Through, index: usize) {
        let (blob, bytes) = &self.blobs[index];
        let begun = self.now();
        let end = self.clients.write(through, blob, bytes).await;
        if end != End::Refused {
            self.record(begun, self.over(end).await, What::Wrote { blob: *blob, acknowledged: end == End::Done });
        }
    }

    /// Sends wrong bytes under a blob's digest, or half of the blob. Neither may leave anything behind.
    async fn write_wrongly(&mut self, through: Through, index: usize) {
        let (blob, bytes) = &self.blobs[index];
        let begun = self.now();
        if self.dice.random_bool(0.5) {
            return self.clients.write_half(bytes).await;
        }
        let mut wrong = bytes.clone();
        wrong[bytes.len() / 2] ^= 1;
        // The content endpoint answers for a blob that it has without looking at the bytes.
        if through == Through::S3 && self.clients.write(through, blob, &wrong).await == End::Done {
            self.record(begun, self.now(), What::AcceptedWrongBytes { blob: *blob });
        }
    }

    async fn read(&mut self, through: Through, index: usize) {
        let blob = self.blobs[index].0;
        let begun = self.now();
        let found = match self.clients.read(through, &blob).await {
            Ok(bytes) => Some(Digest::of(&bytes)),
            Err(End::Missing) => None,
            Err(_) => return tokio::time::sleep(PAUSE).await,
        };
        self.record(begun, self.now(), What::Read { blob, found });
    }

    async fn delete(&mut self, through: Through, index: usize) {
        let blob = self.blobs[index].0;
        let begun = self.now();
        let end = self.clients.delete(through, &blob).await;
        assert_ne!(end, End::Refused, "a delete that may not be");
        self.record(begun, self.over(end).await, What::Deleted { blob });
    }

    async fn put(&mut self, name: &'static str) {
        let count = self.dice.random_range(1..4);
        let blobs: BTreeSet<Digest> = (0..count).map(|_| self.blobs[self.dice.random_range(0..self.blobs.len())].0).collect();
        let request = PutRequest { name: name.to_owned(), document: document(&blobs).into(), ..Default::default() };
        let begun = self.now();
        let end = self.clients.manifests.put(request).await.map_or_else(|status| content_end(&status), |_| End::Done);
        if end != End::Refused {
            self.record(begun, self.over(end).await, What::Put { name, blobs, acknowledged: end == End::Done });
        }
    }

    async fn get(&mut self, name: &'static str) {
        let begun = self.now();
        let found = match self.clients.manifests.get(GetRequest { name: name.to_owned() }).await {
            Ok(answer) => {
                let config: CacheConfig = serde_json::from_slice(&answer.into_inner().document).unwrap();
                Some(config.blobs().into_keys().collect())
            }
            Err(status) if content_end(&status) == End::Missing => None,
            Err(_) => return tokio::time::sleep(PAUSE).await,
        };
        self.record(begun, self.now(), What::Got { name, found });
    }

    async fn remove(&mut self, name: &'static str) {
        let begun = self.now();
        let removed = self.clients.manifests.delete(DeleteRequest { name: name.to_owned() }).await;
        let end = removed.map_or_else(|status| content_end(&status), |_| End::Done);
        self.record(begun, self.over(end).await, What::Removed { name });
    }
}

/// A manifest of these blobs, one record for each.
fn document(blobs: &BTreeSet<Digest>) -> Vec<u8> {
    let layer = |blob: &Digest| {
        let annotations = json!({"mediaType": "m", "diffID": blob.to_string(), "createdAt": "2024-01-01T00:00:00Z"});
        json!({"blob": blob.to_string(), "parent": -1, "annotations": annotations})
    };
    let record = |(index, blob): (usize, &Digest)| json!({"digest": blob.to_string(), "layers": [{"layer": index}]});
    let layers: Vec<_> = blobs.iter().map(layer).collect();
    let records: Vec<_> = blobs.iter().enumerate().map(record).collect();
    json!({"layers": layers, "records": records}).to_string().into_bytes()
}
