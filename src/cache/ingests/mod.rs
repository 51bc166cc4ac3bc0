//! Ingests: blobs that are written message by message under a name (`ref`), as containerd's content API has it.
//!
//! In: messages, under a grant and a ref. Out: blobs, or documents of a build's session. An ingest outlives its writer and
//! the process: its bytes are in the spool (`file`), its state beside them (`files`, `registry`). At most one writer holds it
//! at a time (`writer`). Large blobs may be on their way into the store before the commit (`early_parts`).

mod early_parts;
mod file;
mod files;
mod registry;
mod spool_parts;
mod stream_parts;
mod writer;

use std::sync::Arc;

use time::OffsetDateTime;

use self::file::IngestFile;
use self::registry::IngestName;
use super::blocking::blocking;
use super::labels::Labels;
use super::write::Writes;
use super::{Error, Result, outage};
use crate::shutdown::Shutdown;
use crate::types::{Digest, Grant, Right};

pub(super) use self::registry::Registry;
pub use self::writer::Ingest;

/// containerd has no bound; this one keeps the state small.
const MAX_REF_BYTES: usize = 4096;

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

impl IngestStatus {
    /// Records that it has grown, or was cut.
    fn advance(&mut self, offset: u64) {
        self.offset = offset;
        self.updated = OffsetDateTime::now_utc();
    }
}

/// The ingests of a cache. Cheap to clone; clones are one and the same.
#[derive(Debug, Clone)]
pub struct Ingests(Arc<Room>);

/// What an ingest needs.
#[derive(Debug)]
struct Room {
    registry: Registry,
    writes: Arc<Writes>,
    labels: Arc<Labels>,
    /// Bytes of the largest document of a session.
    max_document_bytes: u64,
    shutdown: Shutdown,
}

impl Ingests {
    pub(super) fn new(registry: Registry, writes: Arc<Writes>, labels: Arc<Labels>, max_document_bytes: u64, shutdown: Shutdown) -> Self {
        Self(Arc::new(Room { registry, writes, labels, max_document_bytes, shutdown }))
    }

    /// Opens an ingest for writing. It goes on where its last writer left it, unless another blob is announced now: then it
    /// begins anew.
    ///
    /// # Errors
    /// [`Error::Locked`] while another writer has it, [`Error::AlreadyExists`] where the expected blob is stored or the export
    /// that it belongs to is dropped, [`Error::Invalid`] for an empty or very long ref, [`Error::Exhausted`],
    /// [`Error::Denied`].
    pub async fn open_writer(&self, grant: &Grant, reference: &str, total: u64, expected: Option<Digest>) -> Result<Ingest> {
        grant.check(Right::Write)?;
        if reference.is_empty() || reference.len() > MAX_REF_BYTES {
            return Err(Error::Invalid(format!("an ingest ref has 1 to {MAX_REF_BYTES} bytes")));
        }
        if let Some(digest) = expected
            && self.is_unneeded(grant, &digest).await?
        {
            return Err(Error::AlreadyExists(format!("blob {digest}")));
        }
        let name = IngestName::new(grant, reference);
        let begin = async {
            let lock = self.0.registry.begin(&name, total, expected).await?;
            blocking(move || IngestFile::open(lock)).await
        };
        let begun = outage::unless_dropped(grant, begin).await?.stored();
        let file = begun.ok_or_else(|| Error::AlreadyExists(format!("ingest {reference}: nothing more of this export is taken")))?;
        Ok(Ingest::new(self.clone(), grant.clone(), name, file))
    }

    /// How far an ingest is.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Denied`].
    pub fn status(&self, grant: &Grant, reference: &str) -> Result<IngestStatus> {
        grant.check(Right::Write)?;
        let status = self.0.registry.status(&IngestName::new(grant, reference));
        status.ok_or_else(|| Error::NotFound(format!("ingest {reference}")))
    }

    /// All ingests of the scope, in the order of their refs.
    ///
    /// # Errors
    /// [`Error::Denied`].
    pub fn statuses(&self, grant: &Grant) -> Result<Vec<IngestStatus>> {
        grant.check(Right::Write)?;
        Ok(self.0.registry.statuses(grant.scope()))
    }

    /// Forgets an ingest and its bytes. A writer that it has finds nothing there at its next call.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Denied`].
    pub async fn abort(&self, grant: &Grant, reference: &str) -> Result<()> {
        grant.check(Right::Write)?;
        let found = self.0.registry.forget(&IngestName::new(grant, reference)).await?;
        if found { Ok(()) } else { Err(Error::NotFound(format!("ingest {reference}"))) }
    }

    /// How many are open or were left.
    pub(super) fn count(&self) -> usize {
        self.0.registry.count()
    }

    /// Whether a blob need not be sent: it is stored, or belongs to an export that is dropped.
    async fn is_unneeded(&self, grant: &Grant, digest: &Digest) -> Result<bool> {
        match self.0.writes.find_for_export(grant, digest).await {
            Ok(_) => Ok(true),
            Err(Error::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
