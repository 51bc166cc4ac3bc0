//! The rooms of a cache, and how they are made: from the lowest up.

use std::sync::Arc;

use super::background::Background;
use super::blobs::Blobs;
use super::ingests::Ingests;
use super::journal::Journal;
use super::known::{Hits, Known};
use super::labels::Labels;
use super::manifests::{self, Manifests};
use super::read::{self, ManifestReader, Reads};
use super::tolerant::Tolerant;
use super::uploads::Uploads;
use super::write::{self, Intake, Writes};
use super::{Cache, KeptReads, Result, Settings, disk};
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::store::Stores;
use crate::transfer::{Budget, MultipartUploads};

/// What a cache holds.
#[derive(Debug)]
pub(super) struct Rooms {
    pub(super) stores: Arc<Stores>,
    settings: Settings,
    pub(super) known: Known,
    pub(super) blobs: Blobs,
    pub(super) labels: Arc<Labels>,
    pub(super) manifests: Arc<Manifests>,
    pub(super) ingests: Ingests,
    pub(super) uploads: Arc<Uploads>,
    pub(super) tolerant: Tolerant,
    pub(super) background: Background,
    pub(super) journal: Option<Journal>,
    /// The bytes of all unfinished writes on disk, and those of the journal.
    pub(super) spool: Budget,
    shutdown: Shutdown,
}

impl Cache {
    /// Opens the cache over `stores`. Takes up the ingests that an earlier run left in the spool and what it left in the
    /// journal (see [`Background::finish_journal`]), and aborts the multipart uploads that it left in the stores. Counts into
    /// `metrics`. What goes on in the background is done by tasks of `shutdown`.
    ///
    /// # Errors
    /// [`Error::Internal`](super::Error::Internal) or [`Error::Exhausted`](super::Error::Exhausted) where the spool or the
    /// journal cannot be read or written.
    pub async fn open(stores: Stores, settings: Settings, metrics: Metrics, shutdown: Shutdown) -> Result<Self> {
        let spool = Budget::new(settings.max_spool_bytes);
        write::spool::prepare(&settings.spool_dir).await?;
        // What ingests left has a first claim on the spool, and the journal comes after that.
        let left = super::ingests::Registry::open(&settings, spool.clone()).await?;
        let multipart = MultipartUploads::open(settings.spool_dir.clone(), settings.upload_memory, &stores, shutdown.clone()).await?;
        let journal = match settings.journal_dir.clone() {
            Some(dir) => Some(Journal::open(dir, spool.clone(), settings.max_spool_bytes, metrics.clone()).await?),
            None => None,
        };
        let disk = match settings.disk.clone() {
            Some(disk) => disk::open(disk, &metrics, &shutdown).await,
            None => None,
        };

        let stores = Arc::new(stores);
        let known = Known::new(settings.presence_max_age, settings.lookup_interval);
        let hits = Hits::default();
        let reader = ManifestReader::new(settings.max_manifest_bytes);
        let reads = Arc::new(Reads::new(read::Parts {
            stores: Arc::clone(&stores),
            known: known.clone(),
            hits: hits.clone(),
            manifests: reader,
            disk: disk.clone(),
            memory: settings.transfer_memory,
            metrics: metrics.clone(),
            shutdown: shutdown.clone(),
        }));
        let lookups = Arc::clone(reads.lookups());
        let intake = Intake::new(multipart.memory().clone(), &settings.spool_dir, spool.clone(), settings.max_spool_bytes);
        let writes = Arc::new(Writes::new(write::Parts {
            stores: Arc::clone(&stores),
            known: known.clone(),
            disk,
            lookups: Arc::clone(&lookups),
            intake,
            multipart,
            journal: journal.clone(),
            metrics: metrics.clone(),
        }));
        let labels = Arc::new(Labels::new(Arc::clone(&stores), Arc::clone(&lookups)));
        let manifests = Arc::new(Manifests::new(manifests::Parts {
            stores: Arc::clone(&stores),
            known: known.clone(),
            hits,
            reader,
            reads: Arc::clone(&reads),
            writes: Arc::clone(&writes),
            merge: settings.merge,
            metrics: metrics.clone(),
        }));
        let ingests = Ingests::new(left, Arc::clone(&writes), Arc::clone(&labels), settings.max_manifest_bytes, shutdown.clone());
        let uploads = Arc::new(Uploads::new(&settings, Arc::clone(&writes), Arc::clone(&manifests), shutdown.clone()));
        let background = Background::new(journal.clone(), Arc::clone(&writes), Arc::clone(&manifests));
        let tolerant = Tolerant::new(lookups, Arc::clone(&writes), Arc::clone(&manifests), Arc::clone(&uploads), metrics);
        let blobs = Blobs::new(reads, writes);
        let rooms =
            Rooms { stores, settings, known, blobs, labels, manifests, ingests, uploads, tolerant, background, journal, spool, shutdown };
        Ok(Self(Arc::new(rooms)))
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

    /// A place for reads that are kept open for their next caller.
    pub(crate) fn kept_reads<K: PartialEq + Send + 'static, R: Send + 'static>(&self) -> KeptReads<K, R> {
        KeptReads::new(self.0.shutdown.clone())
    }
}
