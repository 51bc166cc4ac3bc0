//! What of an ingest goes into the store before its commit.
//!
//! Parts are read back from the spool's file. They are lost with the writer or the process, the file is
//! not: the next writer's parts begin anew.

use crate::cache::{BlobInfo, Cache, Condition, Result, layout};
use crate::transfer::{Payload, SINGLE_PUT_BYTES, Upload, part_bytes};
use crate::types::{Digest, Grant, Right, Sums};

/// Whether parts are sent ahead.
#[derive(Debug, Default)]
pub(in crate::cache) enum Ahead {
    /// Too little has arrived to tell.
    #[default]
    Undecided,
    /// They are not.
    Nothing,
    /// They are.
    Parts(Sent),
}

/// The parts that were sent ahead.
#[derive(Debug)]
pub(in crate::cache) struct Sent {
    upload: Upload,
    digest: Digest,
    part_bytes: u64,
    count: u16,
}

impl Ahead {
    pub(in crate::cache) fn decided(sent: Option<Sent>) -> Self {
        sent.map_or(Self::Nothing, Self::Parts)
    }

    pub(in crate::cache) fn is_undecided(&self) -> bool {
        matches!(self, Self::Undecided)
    }

    /// Whether there is something to do when so much has arrived.
    pub(in crate::cache) fn wants(&self, offset: u64) -> bool {
        match self {
            Self::Undecided => offset > SINGLE_PUT_BYTES,
            Self::Nothing => false,
            Self::Parts(sent) => offset >= sent.end() + sent.part_bytes,
        }
    }

    /// Sends the parts that are whole in what has arrived.
    pub(in crate::cache) fn send(&mut self, arrived: &Payload) {
        if let Self::Parts(sent) = self {
            while sent.end() + sent.part_bytes <= arrived.body().len() && sent.send_next(arrived) {}
        }
    }

    /// What was sent, if it is of this blob.
    pub(in crate::cache) fn for_blob(self, digest: &Digest) -> Option<Sent> {
        match self {
            Self::Parts(sent) if sent.digest == *digest => Some(sent),
            _ => None,
        }
    }
}

impl Sent {
    fn end(&self) -> u64 {
        u64::from(self.count) * self.part_bytes
    }

    /// Whether there was a number left for the next part.
    fn send_next(&mut self, arrived: &Payload) -> bool {
        let next = self.count + 1;
        let fits = part_bytes(u64::from(next) * self.part_bytes) == self.part_bytes;
        if fits {
            self.upload.send(next, arrived.slice(self.end(), self.part_bytes));
            self.count = next;
        }
        fits
    }
}

impl Cache {
    /// Begins to send parts of a blob of `total` bytes (0: unknown) ahead, where its store gains by that.
    pub(in crate::cache) fn begin_ahead(&self, grant: &Grant, digest: &Digest, total: u64) -> Result<Option<Sent>> {
        let (store, scope) = (self.store(grant)?, grant.scope());
        if grant.check_blob(Right::Write, digest).is_err() || !store.prefers_multipart() {
            return Ok(None);
        }
        let upload = self.0.transfers.begin(store, scope.bucket().clone(), layout::blob_key(scope, digest));
        Ok(Some(Sent { upload, digest: *digest, part_bytes: part_bytes(total), count: 0 }))
    }

    /// Makes a verified blob visible, parts of which were sent ahead.
    pub(in crate::cache) async fn publish_sent(&self, grant: &Grant, sums: &Sums, whole: &Payload, mut sent: Sent) -> Result<BlobInfo> {
        let (size, ahead) = (whole.body().len(), sent.count);
        while sent.end() < size {
            if !sent.send_next(whole) {
                // It became larger than was announced.
                sent.upload.abort().await;
                return self.publish_blob(grant, sums, whole).await;
            }
        }
        for number in 1..=ahead {
            if sent.upload.sent(number).await.is_err() {
                sent.upload.send(number, whole.slice(u64::from(number - 1) * sent.part_bytes, sent.part_bytes));
            }
        }
        match sent.upload.finish(1..=sent.count, Condition::None).await {
            Ok(etag) => Ok(self.blob_written(grant, sums, size, etag)),
            Err(error) => {
                sent.upload.abort().await;
                Err(error.into())
            }
        }
    }
}
