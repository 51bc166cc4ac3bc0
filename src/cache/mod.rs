//! The one core that all endpoints talk to: blobs, ingests and manifests in BuildKit's native layout.
//!
//! A blob is its digest: it becomes visible only when its bytes have that digest. A manifest never
//! promises what is not there: it is published only when every blob that it names is stored, and served
//! to a build without what was lost since. Every
//! call carries a [`Grant`](crate::types::Grant), and nothing here knows gRPC, S3 or HTTP.

mod background;
mod blob;
mod blobs;
mod blocking;
mod disk;
mod document;
mod error;
mod ingests;
mod journal;
mod known;
mod labels;
pub mod layout;
mod locks;
mod manifests;
mod objects;
pub mod outage;
mod read;
mod status;
mod uploads;
mod write;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::store::{GuardedStore, Stores};
use crate::transfer::{Budget, MultipartUploads};
use crate::types::{Denied, Grant};

pub use blob::{BlobInfo, BlobRead, Incoming, Outgoing};
pub use disk::DiskSettings;
pub use document::cache_config::{
    CacheConfig, CacheInput, CacheRecord, CacheResult, ChainedResult, Layer, LayerAnnotations, MalformedConfig,
};
pub use document::merge::{MergeLimits, Merged, StoredConfig};
pub use document::strip::Pruned;
pub use error::{Error, Result};
pub use ingests::{Ingest, IngestStatus};
pub use journal::JournalStatus;
pub use labels::Labelled;
pub use manifests::ManifestInfo;
pub use manifests::MergeRules;
pub use objects::{ObjectInfo, ObjectPage};
pub use read::Manifest;
pub use status::{CacheStatus, SpoolStatus};
pub use uploads::{NewPart, UploadId, UploadedPart};

pub use crate::store::Condition;

/// Bounds and places.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where unfinished blobs are kept. Made when missing.
    pub spool_dir: PathBuf,
    /// Where exports are kept that are acknowledged before their store has them. Made when missing. `None`: there
    /// are none, whatever grants say.
    pub journal_dir: Option<PathBuf>,
    /// Manifests with more bytes are refused.
    pub max_manifest_bytes: u64,
    /// Ingests that may be open at once, and as many uploads.
    pub max_open_ingests: usize,
    /// Bytes that all of them may have in the spool, together, those of the journal included.
    pub max_spool_bytes: u64,
    /// An ingest that nobody wrote to for so long is forgotten.
    pub ingest_expiry: Duration,
    /// For so long a blob that was seen in the store is taken to be there when a build asks before it
    /// writes.
    pub presence_max_age: Duration,
    /// What a manifest names is looked up when it is published or imported, unless it was seen within this time.
    pub lookup_interval: Duration,
    /// How a manifest is merged with the stored one of its name; `None`: it replaces it.
    pub merge: Option<MergeRules>,
    /// Bytes that reads may keep ahead of their readers, all together.
    pub transfer_memory: u64,
    /// Bytes of uploads that may be in memory on their way into the stores, all together.
    pub upload_memory: u64,
    /// Keeps what is read on this machine's disk; `None`: every read goes to the store.
    pub disk: Option<DiskSettings>,
}

/// The cache. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cache(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    stores: Arc<Stores>,
    disk: Option<Arc<disk::Disk>>,
    reads: read::Reads,
    manifest_reader: read::ManifestReader,
    settings: Settings,
    metrics: Metrics,
    known: known::Known,
    publishing: manifests::publish::Publishing,
    hits: known::Hits,
    touches: write::reuse::Touches,
    ingests: ingests::Registry,
    uploads: uploads::Registry,
    transfers: Uploads,
    journal: Option<journal::Journal>,
    /// Bytes in the spool.
    spool_budget: Budget,
    shutdown: Shutdown,
}

impl Cache {
    /// Opens the cache over `stores`; takes up the ingests that an earlier run left in the spool and what it left
    /// in the journal (see [`Cache::finish_journal`]), and aborts the multipart uploads that it left in the stores. Counts into `metrics`. What goes on in the
    /// background is done by tasks of `shutdown`.
    ///
    /// # Errors
    /// [`Error::Internal`] or [`Error::Exhausted`] where the spool or the journal cannot be read or written.
    pub async fn open(stores: Stores, settings: Settings, metrics: Metrics, shutdown: Shutdown) -> Result<Self> {
        let spool_budget = Budget::new(settings.max_spool_bytes);
        let ingests = ingests::Registry::open(&settings, spool_budget.clone()).await?;
        let transfers = Uploads::open(settings.spool_dir.clone(), settings.upload_memory, &stores, shutdown.clone()).await?;
        let (max_spool, journal_metrics) = (settings.max_spool_bytes, metrics.clone());
        let journal = match settings.journal_dir.clone() {
            Some(dir) => Some(journal::Journal::open(dir, spool_budget.clone(), max_spool, journal_metrics).await?),
            None => None,
        };
        let disk = match settings.disk.clone() {
            Some(disk) => disk::open(disk, &metrics, &shutdown).await,
            None => None,
        };
        let stores = Arc::new(stores);
        let known = known::Known::new(settings.presence_max_age, settings.lookup_interval);
        let hits = known::Hits::default();
        let manifest_reader = read::ManifestReader::new(settings.max_manifest_bytes);
        let reads = read::Reads::new(read::Parts {
            stores: Arc::clone(&stores),
            known: known.clone(),
            hits: hits.clone(),
            manifests: manifest_reader,
            disk: disk.clone(),
            memory: settings.transfer_memory,
            metrics: metrics.clone(),
            shutdown: shutdown.clone(),
        });
        Ok(Self(Arc::new(Inner {
            stores,
            disk,
            reads,
            manifest_reader,
            settings,
            metrics,
            known,
            publishing: manifests::publish::Publishing::default(),
            hits,
            touches: write::reuse::Touches::default(),
            ingests,
            uploads: uploads::Registry::default(),
            transfers,
            journal,
            spool_budget,
            shutdown,
        })))
    }

    /// The buckets that are served.
    #[must_use]
    pub fn stores(&self) -> &Stores {
        &self.0.stores
    }

    /// The bounds that it was opened with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.0.settings
    }

    fn store(&self, grant: &Grant) -> Result<Arc<dyn GuardedStore>, Denied> {
        self.0.stores.store(grant.scope())
    }
}
