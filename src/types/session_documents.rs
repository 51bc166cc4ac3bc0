//! The documents of one build's session: small blobs that BuildKit writes or reads beside the layers.
//!
//! Over a session, a cache manifest is transferred in its OCI form, which is two or more JSON documents. The store
//! holds none of them, so they are kept here, in memory, until the build is over.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::Digest;

/// Documents by their digest. Their total size is bounded.
#[derive(Debug)]
pub struct Documents {
    max_bytes: u64,
    /// `None`: the build is over.
    held: Mutex<Option<HashMap<Digest, Bytes>>>,
}

impl Documents {
    /// No documents; at most `max_bytes` together.
    #[must_use]
    pub fn new(max_bytes: u64) -> Self {
        Self { max_bytes, held: Mutex::new(Some(HashMap::new())) }
    }

    /// A document.
    #[must_use]
    pub fn get(&self, digest: &Digest) -> Option<Bytes> {
        self.held().as_ref()?.get(digest).cloned()
    }

    /// All documents.
    #[must_use]
    pub fn all(&self) -> Vec<Bytes> {
        self.held().iter().flat_map(HashMap::values).cloned().collect()
    }

    /// Drops all documents, and accepts no more.
    pub fn end(&self) {
        *self.held() = None;
    }

    /// Keeps a document. Returns `false` where there is no room for it or the build is over.
    #[must_use]
    pub fn insert(&self, document: Bytes) -> bool {
        let digest = Digest::of(&document);
        let mut held = self.held();
        let Some(held) = held.as_mut() else { return false };
        if held.contains_key(&digest) {
            return true;
        }
        let bytes: u64 = held.values().map(|document| document.len() as u64).sum();
        if bytes + document.len() as u64 > self.max_bytes {
            return false;
        }
        held.insert(digest, document);
        true
    }

    fn held(&self) -> MutexGuard<'_, Option<HashMap<Digest, Bytes>>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
