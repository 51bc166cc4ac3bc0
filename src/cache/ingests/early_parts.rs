//! Early parts: parts of a blob that its store gets before the ingest is committed.
//!
//! Where a store takes a blob faster in parts, they are sent while more arrives. They come from the spool's file
//! (`spool_parts`), or from memory (`stream_parts`) for a build's session, whose ingests nobody takes up again. Early parts
//! are lost with the writer or the process.

use crate::cache::write::Writes;
use crate::cache::{BlobInfo, Condition, Result};
use crate::transfer::{Payload, Upload, part_bytes};
use crate::types::{Digest, Grant, Right, Sums};

/// The parts of one blob, sent one after the other.
#[derive(Debug)]
pub(super) struct EarlyParts {
    upload: Upload,
    digest: Digest,
    part_bytes: u64,
    /// How many were sent.
    sent: u16,
}

impl EarlyParts {
    /// Begins to send parts of a blob of `total` bytes (0: unknown). `None`: its store takes it as fast in one request,
    /// or the grant does not write it.
    pub(super) fn begin(writes: &Writes, grant: &Grant, digest: &Digest, total: u64) -> Result<Option<Self>> {
        if !writes.prefers_multipart(grant)? || grant.check_blob(Right::Write, digest).is_err() {
            return Ok(None);
        }
        let upload = writes.begin_multipart(grant, digest)?;
        Ok(Some(Self { upload, digest: *digest, part_bytes: part_bytes(total), sent: 0 }))
    }

    /// The blob that they are parts of.
    pub(super) fn digest(&self) -> &Digest {
        &self.digest
    }

    /// Bytes of each part but the last.
    pub(super) fn part_bytes(&self) -> u64 {
        self.part_bytes
    }

    /// Where the parts end that were sent, if all of them were whole.
    pub(super) fn end(&self) -> u64 {
        u64::from(self.sent) * self.part_bytes
    }

    pub(super) fn sent(&self) -> u16 {
        self.sent
    }

    /// Sends the next part of a blob of which `arrived` has come. Returns whether there was a number left for it: a blob may
    /// become larger than was announced.
    pub(super) fn send_next_of(&mut self, arrived: &Payload) -> bool {
        let next = self.sent + 1;
        let fits = part_bytes(u64::from(next) * self.part_bytes) == self.part_bytes;
        if fits {
            self.send(arrived.slice(self.end(), self.part_bytes));
        }
        fits
    }

    /// Sends the next part.
    pub(super) fn send(&mut self, part: Payload) {
        self.sent += 1;
        self.upload.send(self.sent, part);
    }

    /// Sends those of the first `count` parts again that could not be stored.
    pub(super) async fn send_failed_again(&self, count: u16, whole: &Payload) {
        for number in 1..=count {
            if self.upload.sent(number).await.is_err() {
                self.upload.send(number, whole.slice(u64::from(number - 1) * self.part_bytes, self.part_bytes));
            }
        }
    }

    /// Makes the parts a blob of `size` bytes, which have been verified.
    pub(super) async fn finish(self, writes: &Writes, grant: &Grant, sums: &Sums, size: u64) -> Result<BlobInfo> {
        match self.upload.finish(1..=self.sent, Condition::None).await {
            Ok(etag) => Ok(writes.record_written(grant, sums, size, etag)),
            Err(error) => {
                self.abort().await;
                Err(error.into())
            }
        }
    }

    /// Lets the store forget them.
    pub(super) async fn abort(&self) {
        self.upload.abort().await;
    }
}
