//! Ingests: blobs that are written piece by piece under a name (`ref`), as containerd's content API has it.
//!
//! An ingest outlives its writer and the process: its bytes are in the spool, its state beside them. At
//! most one writer holds it at a time.

mod early_parts;
mod files;
mod registry;
mod streamed;
mod writer;
mod writing;

use time::OffsetDateTime;

use super::{Cache, Error, Result, outage};
use crate::cache::blocking::blocking;
use crate::types::{Digest, Grant, Right};

pub(super) use self::registry::Registry;
pub use self::writer::Ingest;

use self::registry::Name;
use self::writing::Writing;

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

impl Cache {
    /// Opens an ingest for writing; takes it up where its last writer left it, unless another blob is
    /// announced now: then it begins anew.
    ///
    /// # Errors
    /// [`Error::Locked`] while another writer has it, [`Error::AlreadyExists`] where the expected blob is
    /// stored or the export that it belongs to is dropped, [`Error::Invalid`] for an empty or very long ref,
    /// [`Error::Exhausted`], [`Error::Denied`].
    pub async fn open_ingest(&self, grant: &Grant, reference: &str, total: u64, expected: Option<Digest>) -> Result<Ingest> {
        grant.check(Right::Write)?;
        if reference.is_empty() || reference.len() > MAX_REF_BYTES {
            return Err(Error::Invalid(format!("an ingest ref has 1 to {MAX_REF_BYTES} bytes")));
        }
        if let Some(digest) = expected
            && self.need_not_have(grant, &digest).await?
        {
            return Err(Error::AlreadyExists(format!("blob {digest}")));
        }
        let name = Name::new(grant, reference);
        let begin = async {
            let lock = self.0.ingests.begin(&name, total, expected, &self.0.settings).await?;
            blocking(move || Writing::open(lock)).await
        };
        let begun = outage::unless_dropped(grant, begin).await?;
        let writing = begun.ok_or_else(|| Error::AlreadyExists(format!("ingest {reference}: nothing more of this export is taken")))?;
        Ok(Ingest::new(self.clone(), grant.clone(), name, writing))
    }

    /// How far an ingest is.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Denied`].
    pub fn ingest_status(&self, grant: &Grant, reference: &str) -> Result<IngestStatus> {
        grant.check(Right::Write)?;
        let status = self.0.ingests.status(&Name::new(grant, reference));
        status.ok_or_else(|| Error::NotFound(format!("ingest {reference}")))
    }

    /// All ingests of the scope, in the order of their refs.
    ///
    /// # Errors
    /// [`Error::Denied`].
    pub fn ingest_statuses(&self, grant: &Grant) -> Result<Vec<IngestStatus>> {
        grant.check(Right::Write)?;
        Ok(self.0.ingests.statuses(grant.scope()))
    }

    /// Forgets an ingest and its bytes. A writer that it has finds nothing there at its next call.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Denied`].
    pub async fn abort_ingest(&self, grant: &Grant, reference: &str) -> Result<()> {
        grant.check(Right::Write)?;
        let found = self.0.ingests.forget(&Name::new(grant, reference)).await?;
        if found { Ok(()) } else { Err(Error::NotFound(format!("ingest {reference}"))) }
    }

    /// Whether a blob is stored, or belongs to an export that is dropped.
    async fn need_not_have(&self, grant: &Grant, digest: &Digest) -> Result<bool> {
        match outage::unless_dropped(grant, self.find_to_reuse(grant, digest)).await {
            Ok(found) => {
                found.inspect(|_| grant.usage().blob_reused());
                Ok(true)
            }
            Err(Error::NotFound(_)) => Ok(false),
            Err(error) => Err(error),
        }
    }
}
