//! The uploads that are open.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::UploadId;
use super::upload::Upload;
use crate::cache::layout::Item;
use crate::cache::{Error, Result};
use crate::types::Grant;

/// Uploads by their ids.
#[derive(Debug)]
pub(super) struct Registry {
    uploads: Mutex<HashMap<UploadId, Arc<Upload>>>,
    max_open: usize,
    /// An upload that nobody used for this long is forgotten.
    expiry: Duration,
}

impl Registry {
    pub(super) fn new(max_open: usize, expiry: Duration) -> Self {
        Self { uploads: Mutex::default(), max_open, expiry }
    }

    /// Takes a new upload, and forgets those that have expired.
    ///
    /// # Errors
    /// [`Error::Exhausted`] with too many open.
    pub(super) fn insert(&self, upload: Upload) -> Result<UploadId> {
        let mut uploads = self.uploads();
        uploads.retain(|_, upload| upload.state().last_used.elapsed() < self.expiry);
        if uploads.len() >= self.max_open {
            return Err(Error::Exhausted(format!("{} uploads are open; limits.max_open_ingests allows no more", uploads.len())));
        }
        let id = UploadId(format!("{:032x}", rand::random::<u128>()));
        uploads.insert(id.clone(), Arc::new(upload));
        Ok(id)
    }

    /// An upload of this caller.
    ///
    /// # Errors
    /// [`Error::NotFound`], also for somebody else's upload.
    pub(super) fn find(&self, id: &UploadId, grant: &Grant, item: &Item) -> Result<Arc<Upload>> {
        let found = self.uploads().get(id).filter(|upload| upload.item == *item && upload.grant.scope() == grant.scope()).cloned();
        let upload = found.ok_or_else(|| Error::NotFound(format!("upload {id}")))?;
        upload.state().last_used = Instant::now();
        Ok(upload)
    }

    pub(super) fn count(&self) -> usize {
        self.uploads().len()
    }

    pub(super) fn remove(&self, id: &UploadId) {
        let removed = self.uploads().remove(id);
        // Whoever holds it still has no use for the file.
        if let Some(upload) = removed.filter(|upload| upload.state().is_kept) {
            drop(upload.sequence.leave_file());
        }
    }

    fn uploads(&self) -> MutexGuard<'_, HashMap<UploadId, Arc<Upload>>> {
        self.uploads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
