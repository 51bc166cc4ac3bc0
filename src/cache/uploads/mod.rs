//! Multipart uploads of S3 clients: numbered parts in any order, joined at the end.
//!
//! In: parts of a blob or a manifest. Out: a blob or a manifest. A blob's parts go on to the store while others still arrive,
//! and are hashed in their order (`sequence`). What they join to becomes visible when it has the right digest. Under
//! `durability = "local"` they are joined on disk (`joined`), as long as there is room, and the blob goes to the journal. An
//! upload ends with the process: S3 clients begin again, and the next start aborts what the store holds of it.

mod joined;
mod registry;
mod sequence;
mod upload;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use self::joined::Joined;
use self::registry::Registry;
use self::upload::{Completing, SentPart, Upload};
use super::blocking::blocking;
use super::layout::Item;
use super::manifests::Manifests;
use super::write::receive::check_digest;
use super::write::spool::SpoolFile;
use super::write::{Intake, Writes};
use super::{Condition, Error, Incoming, Result, Settings};
use crate::shutdown::Shutdown;
use crate::store::Body;
use crate::transfer::Payload;
use crate::types::{Digest, ETag, Grant, Right};

/// How long a part that waits for its predecessors may take up memory.
const PATIENCE_IN_MEMORY: Duration = Duration::from_secs(5);

/// An open upload.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UploadId(String);

impl UploadId {
    /// Takes an id as a client sends it back. One that was never given out is not found later.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A part on its way in.
pub struct NewPart {
    /// 1 to 10,000.
    pub number: u16,
    /// Bytes announced.
    pub size: u64,
    /// The bytes.
    pub body: Incoming,
}

impl fmt::Debug for NewPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewPart").field("number", &self.number).field("size", &self.size).finish_non_exhaustive()
    }
}

/// A part that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedPart {
    /// 1 to 10,000.
    pub number: u16,
    /// Its version.
    pub etag: ETag,
    /// Bytes; 0 for a copy of the object itself.
    pub size: u64,
}

/// The multipart uploads of a cache.
#[derive(Debug)]
pub struct Uploads {
    registry: Registry,
    writes: Arc<Writes>,
    manifests: Arc<Manifests>,
    shutdown: Shutdown,
}

impl Uploads {
    pub(super) fn new(settings: &Settings, writes: Arc<Writes>, manifests: Arc<Manifests>, shutdown: Shutdown) -> Self {
        let registry = Registry::new(settings.max_open_ingests, settings.ingest_expiry);
        Self { registry, writes, manifests, shutdown }
    }

    /// Begins an upload of a blob or a manifest.
    ///
    /// # Errors
    /// [`Error::Denied`], or [`Error::Exhausted`] with too many open.
    pub fn begin(&self, grant: &Grant, item: Item) -> Result<UploadId> {
        check(grant, &item)?;
        let forwarded = match &item {
            Item::Blob(digest) => Some(self.writes.begin_multipart(grant, digest)?),
            Item::Manifest(_) => None,
        };
        let intake = self.writes.intake();
        let joined = self.writes.journal(grant).filter(|_| matches!(item, Item::Blob(_))).and_then(|_| {
            // Made as quickly as it is unlinked.
            Joined::create(intake.spool_dir(), intake.spool().try_hold(0)?).ok()
        });
        self.registry.insert(Upload::new(grant.clone(), item, joined, forwarded))
    }

    /// Takes one part. It is on its way into the store when this returns, and there already where it was
    /// too large for memory.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown upload, [`Error::Precondition`] where fewer or more bytes
    /// arrive, [`Error::Locked`] while the upload is completed, [`Error::Exhausted`] with the spool full.
    pub async fn take_part(&self, grant: &Grant, item: &Item, id: &UploadId, part: NewPart) -> Result<ETag> {
        let NewPart { number, size, mut body } = part;
        let upload = self.registry.find(id, grant, item)?;
        let intake = self.writes.intake();
        let payload = intake.receive(&format!("part {number}"), size, &mut body, upload.sequence.predecessors_of(number), |_| ()).await?;
        let etag = upload.accept(number, &payload)?;
        let hashing = Arc::clone(&upload);
        if upload.forwarded.is_some() {
            blocking(move || Ok(hashing.advance()?)).await?;
        }
        if payload.is_in_memory() {
            if upload.sequence.waiting_part(number).is_some() {
                self.shutdown.spawn(make_room(intake.clone(), self.shutdown.clone(), upload, number));
            }
        } else if let Some(forwarded) = upload.forwarded.as_ref().filter(|_| !upload.state().is_kept) {
            // The client waits, so that the spool fills no faster than it drains.
            forwarded.sent(number).await?;
        }
        Ok(etag)
    }

    /// Takes a part of the object itself as a part: an upload of nothing else is a touch.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown upload.
    pub fn take_part_of_itself(&self, grant: &Grant, item: &Item, id: &UploadId, number: u16) -> Result<ETag> {
        let etag = ETag::new(&format!("copy-{number}"));
        let upload = self.registry.find(id, grant, item)?;
        upload.state().parts.insert(number, SentPart { etag: etag.clone(), size: None });
        Ok(etag)
    }

    /// The parts that were sent so far, by number.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown upload.
    pub fn parts(&self, grant: &Grant, item: &Item, id: &UploadId) -> Result<Vec<UploadedPart>> {
        let upload = self.registry.find(id, grant, item)?;
        let state = upload.state();
        let part = |(&number, sent): (&u16, &SentPart)| UploadedPart { number, etag: sent.etag.clone(), size: sent.size.unwrap_or(0) };
        Ok(state.parts.iter().map(part).collect())
    }

    /// Joins the parts and makes them visible, if they are what they should be.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown upload, [`Error::Invalid`] for parts that were not sent,
    /// [`Error::Locked`] while another call does the same, [`Error::Precondition`] for a missing blob or a
    /// wrong digest, or the store's. The upload is open still after an error that another try may mend;
    /// it is gone after a wrong digest of all that was sent.
    pub async fn complete(&self, grant: &Grant, item: &Item, id: &UploadId, parts: &[(u16, ETag)], condition: Condition) -> Result<ETag> {
        let upload = self.registry.find(id, grant, item)?;
        let _completing = Completing::begin(&upload)?;
        let are_copies = upload.check_parts(parts)?;
        let numbers: Vec<u16> = parts.iter().map(|(number, _)| *number).collect();
        let etag = match item {
            Item::Blob(digest) if are_copies => {
                let touched = self.writes.keep_young(grant, digest).await?;
                touched.map_or_else(|| ETag::new("untouched"), |touched| touched.etag)
            }
            Item::Blob(digest) => self.complete_blob(grant, digest, id, &upload, numbers).await?,
            Item::Manifest(name) => {
                self.manifests.check_size(upload.size(&numbers))?;
                let joining = Arc::clone(&upload);
                let document = blocking(move || joining.join(&numbers)).await?;
                self.manifests.publish(grant, name, document, condition).await?
            }
        };
        self.registry.remove(id);
        Ok(etag)
    }

    async fn complete_blob(&self, grant: &Grant, digest: &Digest, id: &UploadId, upload: &Arc<Upload>, numbers: Vec<u16>) -> Result<ETag> {
        let Some(forwarded) = &upload.forwarded else {
            return Err(Error::Internal(format!("upload {id} of a blob goes nowhere")));
        };
        let sums = upload.sums(numbers.clone()).await?;
        let checked = check_digest(digest, &sums.digest);
        if checked.is_err() && numbers.len() == upload.state().parts.len() {
            self.registry.remove(id);
            forwarded.abort().await;
        }
        checked?;
        if let Some(file) = upload.sequence.file_of(&numbers) {
            return Ok(self.writes.publish(grant, &sums, &file.into()).await?.etag);
        }
        upload.forward_all();
        let size = upload.size(&numbers);
        // The name is the content, so whoever comes second writes the same bytes.
        let etag = forwarded.finish(numbers, Condition::None).await?;
        Ok(self.writes.record_written(grant, &sums, size, etag).etag)
    }

    /// Forgets an upload, here and in the store.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown one.
    pub async fn abort(&self, grant: &Grant, item: &Item, id: &UploadId) -> Result<()> {
        let upload = self.registry.find(id, grant, item)?;
        self.registry.remove(id);
        if let Some(forwarded) = &upload.forwarded {
            forwarded.abort().await;
        }
        Ok(())
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        self.registry.count()
    }
}

/// Moves a part from memory to the spool when its predecessors have not come in time. Holds no memory meanwhile.
async fn make_room(intake: Intake, shutdown: Shutdown, upload: Arc<Upload>, number: u16) {
    tokio::select! {
        () = tokio::time::sleep(PATIENCE_IN_MEMORY) => {}
        () = shutdown.closing() => return,
    }
    let Some(payload) = upload.sequence.waiting_part(number) else { return };
    let Body::Bytes(bytes) = payload.body() else { return };
    let Some(hold) = intake.spool().try_hold(bytes.len() as u64) else { return };
    let moved = async {
        let mut file = SpoolFile::create(intake.spool_dir()).await?;
        file.write(bytes).await?;
        file.finish().await
    };
    match moved.await {
        Ok(file) => upload.sequence.replace(number, &payload, Payload::new(file.body(), (file, hold))),
        Err(error) => tracing::warn!(%error, "could not move a part from memory to the spool"),
    }
}

fn check(grant: &Grant, item: &Item) -> Result<()> {
    match item {
        Item::Blob(digest) => grant.check_blob(Right::Write, digest)?,
        Item::Manifest(name) => grant.check_manifest(Right::Write, name)?,
    }
    Ok(())
}
