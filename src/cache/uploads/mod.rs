//! Multipart uploads, as S3 has them: numbered parts in any order, joined at the end.
//!
//! A blob's parts go on to the store while others still arrive, and are hashed in their order; what they
//! join to becomes visible when it has the right digest. Under `durability = "local"` they are joined on disk,
//! as long as there is room, and the blob goes to the journal. An upload ends with the process: S3 clients begin
//! again, and the next start aborts what the store holds of it.

mod joined;
mod sequence;
mod upload;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use self::joined::Joined;
use self::upload::{Completing, Known, Upload};
use super::layout::{self, Item};
use super::write::receive::check_digest;
use super::{Cache, Condition, Error, Incoming, Result};
use crate::cache::blocking::blocking;
use crate::cache::write::spool::SpoolFile;
use crate::store::Body;
use crate::transfer::Payload;
use crate::types::{ETag, Grant, Right};

/// How long a part that waits for its turn may take up memory.
const TURN_PATIENCE: Duration = Duration::from_secs(5);

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

#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<HashMap<UploadId, Arc<Upload>>>);

impl Registry {
    fn uploads(&self) -> MutexGuard<'_, HashMap<UploadId, Arc<Upload>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn find(&self, id: &UploadId, grant: &Grant, item: &Item) -> Result<Arc<Upload>> {
        // Somebody else's upload does not exist for this caller.
        let found = self.uploads().get(id).filter(|upload| upload.item == *item && upload.grant.scope() == grant.scope()).cloned();
        let upload = found.ok_or_else(|| Error::NotFound(format!("upload {id}")))?;
        upload.state().last_used = Instant::now();
        Ok(upload)
    }

    /// How many are open.
    pub(super) fn count(&self) -> usize {
        self.uploads().len()
    }

    fn remove(&self, id: &UploadId) {
        let removed = self.uploads().remove(id);
        // Whoever holds it still has no use for the file.
        if let Some(upload) = removed.filter(|upload| upload.state().is_kept) {
            drop(upload.sequence.leave_file());
        }
    }
}

impl Cache {
    /// Begins an upload of a blob or a manifest.
    ///
    /// # Errors
    /// [`Error::Denied`], or [`Error::Exhausted`] with too many open.
    pub fn begin_upload(&self, grant: &Grant, item: Item) -> Result<UploadId> {
        check(grant, &item)?;
        let (store, settings, scope) = (self.store(grant)?, &self.0.settings, grant.scope());
        let joined = self.journal(grant).filter(|_| matches!(item, Item::Blob(_))).and_then(|_| {
            // Made as quickly as it is unlinked.
            Joined::create(&settings.spool_dir, self.0.spool_budget.try_hold(0)?).ok()
        });
        let mut uploads = self.0.uploads.uploads();
        uploads.retain(|_, upload| upload.state().last_used.elapsed() < settings.ingest_expiry);
        if uploads.len() >= settings.max_open_ingests {
            return Err(Error::Exhausted(format!("{} uploads are open; limits.max_open_ingests allows no more", uploads.len())));
        }
        let id = UploadId(format!("{:032x}", rand::random::<u128>()));
        let store = match &item {
            Item::Blob(digest) => Some(self.0.transfers.begin(store, scope.bucket().clone(), layout::blob_key(scope, digest))),
            Item::Manifest(_) => None,
        };
        uploads.insert(id.clone(), Arc::new(Upload::new(grant.clone(), item, joined, store)));
        Ok(id)
    }

    /// Takes one part. It is on its way into the store when this returns, and there already where it was
    /// too large for memory.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown upload, [`Error::Precondition`] where fewer or more bytes
    /// arrive, [`Error::Locked`] while the upload is completed, [`Error::Exhausted`] with the spool full.
    pub async fn upload_part(&self, grant: &Grant, item: &Item, id: &UploadId, part: NewPart) -> Result<ETag> {
        let NewPart { number, size, mut body } = part;
        let upload = self.0.uploads.find(id, grant, item)?;
        let piece = self.receive(&format!("part {number}"), size, &mut body, upload.sequence.turn_of(number), |_| ()).await?;
        let etag = upload.accept(number, &piece)?;
        let hashing = Arc::clone(&upload);
        if upload.store.is_some() {
            blocking(move || Ok(hashing.advance()?)).await?;
        }
        if piece.is_in_memory() {
            if upload.sequence.waiting_part(number).is_some() {
                let cache = self.clone();
                self.0.shutdown.spawn(async move { cache.make_room(&upload, number).await });
            }
        } else if let Some(store) = upload.store.as_ref().filter(|_| !upload.state().is_kept) {
            // The client waits, so that the spool fills no faster than it drains.
            store.sent(number).await?;
        }
        Ok(etag)
    }

    /// Moves a part whose turn does not come from memory to the spool. Holds no memory meanwhile.
    async fn make_room(&self, upload: &Upload, number: u16) {
        tokio::select! {
            () = tokio::time::sleep(TURN_PATIENCE) => {}
            () = self.0.shutdown.closing() => return,
        }
        let Some(piece) = upload.sequence.waiting_part(number) else { return };
        let Body::Bytes(bytes) = piece.body() else { return };
        let Some(hold) = self.0.spool_budget.try_hold(bytes.len() as u64) else { return };
        let moved = async {
            let mut file = SpoolFile::create(&self.0.settings.spool_dir).await?;
            file.write(bytes).await?;
            file.finish().await
        };
        match moved.await {
            Ok(file) => upload.sequence.replace(number, &piece, Payload::new(file.body(), (file, hold))),
            Err(error) => tracing::warn!(%error, "could not move a part from memory to the spool"),
        }
    }

    /// Takes a part of the object itself as a part: an upload of nothing else is a touch.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown upload.
    pub fn upload_part_of_itself(&self, grant: &Grant, item: &Item, id: &UploadId, number: u16) -> Result<ETag> {
        let etag = ETag::new(&format!("copy-{number}"));
        let upload = self.0.uploads.find(id, grant, item)?;
        upload.state().parts.insert(number, Known { etag: etag.clone(), size: None });
        Ok(etag)
    }

    /// The parts that were sent so far, by number.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown upload.
    pub fn upload_parts(&self, grant: &Grant, item: &Item, id: &UploadId) -> Result<Vec<UploadedPart>> {
        let upload = self.0.uploads.find(id, grant, item)?;
        let state = upload.state();
        let part = |(&number, known): (&u16, &Known)| UploadedPart { number, etag: known.etag.clone(), size: known.size.unwrap_or(0) };
        Ok(state.parts.iter().map(part).collect())
    }

    /// Joins the parts and makes them visible, if they are what they should be.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown upload, [`Error::Invalid`] for parts that were not sent,
    /// [`Error::Locked`] while another call does the same, [`Error::Precondition`] for a missing blob or a
    /// wrong digest, or the store's. The upload is open still after an error that another try may mend;
    /// it is gone after a wrong digest of all that was sent.
    pub async fn complete_upload(
        &self,
        grant: &Grant,
        item: &Item,
        id: &UploadId,
        parts: &[(u16, ETag)],
        condition: Condition,
    ) -> Result<ETag> {
        let upload = self.0.uploads.find(id, grant, item)?;
        let _completing = Completing::begin(&upload)?;
        let copies = upload.check_parts(parts)?;
        let numbers: Vec<u16> = parts.iter().map(|(number, _)| *number).collect();
        let etag = match (item, &upload.store) {
            (Item::Blob(digest), _) if copies => {
                let touched = self.keep_young(grant, digest).await?;
                touched.map_or_else(|| ETag::new("untouched"), |touched| touched.etag)
            }
            (Item::Blob(digest), Some(store)) => {
                let sums = upload.sums(numbers.clone()).await?;
                let checked = check_digest(digest, &sums.digest);
                if checked.is_err() && numbers.len() == upload.state().parts.len() {
                    self.0.uploads.remove(id);
                    store.abort().await;
                }
                checked?;
                if let Some(file) = upload.sequence.file_of(&numbers) {
                    self.publish_blob(grant, &sums, &file.into()).await?.etag
                } else {
                    upload.turn_to_store();
                    let size = upload.size(&numbers);
                    // The name is the content, so whoever comes second writes the same bytes.
                    let etag = store.finish(numbers, Condition::None).await?;
                    self.blob_written(grant, &sums, size, etag).etag
                }
            }
            (Item::Manifest(name), _) => {
                self.check_manifest_size(upload.size(&numbers))?;
                let joining = Arc::clone(&upload);
                let document = blocking(move || joining.join(&numbers)).await?;
                self.put_manifest(grant, name, document, condition).await?
            }
            (Item::Blob(_), None) => return Err(Error::Internal(format!("upload {id} of a blob goes nowhere"))),
        };
        self.0.uploads.remove(id);
        Ok(etag)
    }

    /// Forgets an upload, here and in the store.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown one.
    pub async fn abort_upload(&self, grant: &Grant, item: &Item, id: &UploadId) -> Result<()> {
        let upload = self.0.uploads.find(id, grant, item)?;
        self.0.uploads.remove(id);
        if let Some(store) = &upload.store {
            store.abort().await;
        }
        Ok(())
    }
}

fn check(grant: &Grant, item: &Item) -> Result<()> {
    match item {
        Item::Blob(digest) => grant.check_blob(Right::Write, digest)?,
        Item::Manifest(name) => grant.check_manifest(Right::Write, name)?,
    }
    Ok(())
}
