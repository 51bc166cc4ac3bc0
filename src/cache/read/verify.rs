//! Blobs that are read whole are checked on their way: the last piece goes out when they are what they should be.
//!
//! Once, that is the digest. A version that was verified by it before, by this process or by whoever wrote the
//! manifest, is held against the checksum that it had then, for less than a fifteenth of the CPU. Where that is another
//! one, the digest decides at the next read.
//!
//! A version whose digest is wrong is quarantined: its object stays in the store for whoever wants to look
//! at it, and counts as missing from then on, so that an exporter writes it anew.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::cache::known::Trust;
use crate::cache::{Cache, Error, Outgoing, Result, layout};
use crate::store::Meta;
use crate::types::{Crc64, Crc64Hasher, Digest, Hasher, Scope, Sums};

/// A blob on its way out.
struct Checking {
    cache: Cache,
    scope: Scope,
    digest: Digest,
    meta: Meta,
    body: Outgoing,
    at: u64,
    /// `None`: it is judged.
    check: Option<Check>,
}

/// What is held against a blob.
enum Check {
    Digest(Box<Hasher>),
    /// The checksum, and what it should be.
    Crc(Box<Crc64Hasher>, Crc64),
}

impl Cache {
    /// The body of a blob that is read whole, which ends in an error where it is not what it should be.
    pub(in crate::cache) fn checked(&self, scope: &Scope, digest: &Digest, meta: &Meta, body: Outgoing) -> Outgoing {
        let crc = self.0.known.trust(scope, digest, &meta.etag).and_then(Trust::crc);
        let check = crc.map_or_else(|| Check::Digest(Box::default()), |crc| Check::Crc(Box::default(), crc));
        let (cache, scope, check) = (self.clone(), scope.clone(), Some(check));
        let checking = Checking { cache, scope, digest: *digest, meta: meta.clone(), body, at: 0, check };
        stream::try_unfold(checking, |mut checking| async move {
            let piece = checking.body.try_next().await?;
            if let Some(piece) = &piece {
                checking.at += piece.len() as u64;
                match &mut checking.check {
                    Some(Check::Digest(hasher)) => hasher.update(piece),
                    Some(Check::Crc(hasher, _)) => hasher.update(piece),
                    None => {}
                }
            }
            if piece.is_none() || checking.at >= checking.meta.size {
                checking.judge()?;
            }
            Ok(piece.map(|piece| (piece, checking)))
        })
        .boxed()
    }

    /// Decides of a version that was hashed.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where it has another digest than the blob's; it is in quarantine then.
    pub(in crate::cache) fn judge(&self, scope: &Scope, digest: &Digest, meta: &Meta, sums: &Sums) -> Result<()> {
        let actual = &sums.digest;
        if actual == digest {
            self.0.known.record_trust(scope, digest, &meta.etag, Trust::Verified(sums.crc));
            return Ok(());
        }
        if self.0.known.record_trust(scope, digest, &meta.etag, Trust::Corrupt) {
            self.0.metrics.blob_corrupt();
            let (key, size) = (layout::blob_key(scope, digest), meta.size);
            tracing::error!(
                object.key = key.as_str(),
                object.size = size,
                expected = %digest,
                %actual,
                "{key} in {} is corrupt: its {size} bytes have the digest {actual}, not {digest}; it counts as missing until it is written \
                 anew",
                scope.bucket()
            );
        }
        if let Some(disk) = &self.0.disk {
            disk.forget(digest);
        }
        Err(Error::Corrupt(format!("blob {digest}: the stored bytes have the digest {actual}")))
    }

    /// Decides of a version that was verified before, and came with the checksum `actual`.
    fn compare(&self, scope: &Scope, digest: &Digest, meta: &Meta, actual: Crc64, expected: Crc64) -> Result<()> {
        if actual == expected {
            return Ok(());
        }
        self.0.known.record_trust(scope, digest, &meta.etag, Trust::Suspect);
        let what = format!("blob {digest}: what came has the CRC-64/NVME {actual}, where {expected} was verified");
        tracing::warn!(blob.digest = %digest, object.etag = meta.etag.as_str(), "{what}; its digest is computed at the next read");
        Err(Error::Corrupt(what))
    }
}

impl Checking {
    /// Decides once, when all has arrived.
    fn judge(&mut self) -> Result<()> {
        let Some(check) = self.check.take() else { return Ok(()) };
        if self.at < self.meta.size {
            return Err(Error::Unavailable(format!("reading blob {} ended {} bytes early", self.digest, self.meta.size - self.at)));
        }
        match check {
            Check::Digest(hasher) => self.cache.judge(&self.scope, &self.digest, &self.meta, &hasher.finish()),
            Check::Crc(hasher, crc) => self.cache.compare(&self.scope, &self.digest, &self.meta, hasher.finish(), crc),
        }
    }
}
