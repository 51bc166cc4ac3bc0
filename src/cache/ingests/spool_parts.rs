//! Early parts from the spool: they are read back from the ingest's file, which stays when they are lost. The next writer's
//! parts begin anew.

use super::early_parts::EarlyParts;
use crate::cache::write::Writes;
use crate::cache::{BlobInfo, Result};
use crate::transfer::{Payload, SINGLE_PUT_BYTES};
use crate::types::{Digest, Grant, Sums};

/// Whether early parts are sent.
#[derive(Debug, Default)]
pub(super) enum SpoolParts {
    /// Too little has arrived to tell.
    #[default]
    Undecided,
    /// None are sent.
    Never,
    /// They are sent.
    Sending(EarlyParts),
}

impl SpoolParts {
    /// Whether there is something to do when this much has arrived.
    pub(super) fn is_due(&self, offset: u64) -> bool {
        match self {
            Self::Undecided => offset > SINGLE_PUT_BYTES,
            Self::Never => false,
            Self::Sending(parts) => offset >= parts.end() + parts.part_bytes(),
        }
    }

    /// Decides whether parts are sent, where that is still open. `expected` is the blob that was announced.
    pub(super) fn decide(&mut self, writes: &Writes, grant: &Grant, expected: Option<Digest>, total: u64) -> Result<()> {
        if matches!(self, Self::Undecided) {
            let parts = match expected {
                Some(digest) => EarlyParts::begin(writes, grant, &digest, total)?,
                None => None,
            };
            *self = parts.map_or(Self::Never, Self::Sending);
        }
        Ok(())
    }

    /// Sends the parts that are whole in what has arrived.
    pub(super) fn send(&mut self, arrived: &Payload) {
        if let Self::Sending(parts) = self {
            while parts.end() + parts.part_bytes() <= arrived.body().len() && parts.send_next_of(arrived) {}
        }
    }

    /// Makes verified bytes a blob: from the parts that were sent, where they are of this blob, else as any other.
    pub(super) async fn publish(self, writes: &Writes, grant: &Grant, sums: &Sums, whole: &Payload) -> Result<BlobInfo> {
        let mut parts = match self {
            Self::Sending(parts) if *parts.digest() == sums.digest => parts,
            _ => return writes.publish(grant, sums, whole).await,
        };
        let size = whole.body().len();
        let early = parts.sent();
        while parts.end() < size {
            if !parts.send_next_of(whole) {
                // It became larger than was announced.
                parts.abort().await;
                return writes.publish(grant, sums, whole).await;
            }
        }
        parts.send_failed_again(early, whole).await;
        parts.finish(writes, grant, sums, size).await
    }
}
