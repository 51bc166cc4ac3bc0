//! Blobs that an exporter need not send, found without a call of the store where that can be.

use std::sync::Arc;
use std::time::Duration;

use time::OffsetDateTime;

use super::touch_queue::Touches;
use crate::cache::journal::Journal;
use crate::cache::known::Known;
use crate::cache::read::Lookups;
use crate::cache::{BlobInfo, Error, Result};
use crate::types::{Digest, Grant};

/// BuildKit's default `touch_refresh`: it copies an older blob onto itself, so that the bucket's lifecycle rules leave alone
/// what is in use.
const TOUCH_AFTER: Duration = Duration::from_hours(24);

/// Finds blobs that are there already.
#[derive(Debug)]
pub(super) struct Reuse {
    lookups: Arc<Lookups>,
    known: Known,
    touches: Arc<Touches>,
}

impl Reuse {
    pub(super) fn new(lookups: Arc<Lookups>, known: Known, touches: Arc<Touches>) -> Self {
        Self { lookups, known, touches }
    }

    /// Looks up a blob in the journal, where there is one, and in the store. One that is old is touched later.
    pub(super) async fn find(&self, journal: Option<&Journal>, grant: &Grant, digest: &Digest) -> Result<BlobInfo> {
        if let Some(losses) = grant.losses() {
            losses.promises().begin_export();
        }
        if let Some(found) = journal.and_then(|journal| journal.find(grant, digest)) {
            return Ok(found);
        }
        let answer = self.lookups.stat(grant, digest).await;
        let found = if journal.is_some() { self.or_guessed(grant, digest, answer)? } else { answer? };
        if OffsetDateTime::now_utc() - found.modified > TOUCH_AFTER { self.touches.later(grant, found) } else { Ok(found) }
    }

    /// The store's answer. Where the store gives none and the journal takes the export, a blob counts as stored if it was
    /// ever seen there. One that was never seen is reported missing, so that the client sends it. What turns out wrong is
    /// left out when the manifest is published.
    fn or_guessed(&self, grant: &Grant, digest: &Digest, answer: Result<BlobInfo>) -> Result<BlobInfo> {
        match answer {
            Err(error) if error.is_outage() => match self.known.last(grant.scope(), digest) {
                Some(seen) => Ok(BlobInfo::new(*digest, seen)),
                None => Err(Error::NotFound(format!("blob {digest}"))),
            },
            answer => answer,
        }
    }
}
