//! Blobs that are read whole are verified on their way: the last chunk goes out when all of them are right.
//!
//! The first read of a version computes its digest. A version that was verified before, by this process or by whoever
//! wrote the manifest, is compared with the checksum that it had then, which takes less than a fifteenth of the CPU time.
//! Where the checksum is another one, the next read computes the digest again.
//!
//! A version with a wrong digest is in quarantine: its object stays in the store for whoever wants to look at it, and
//! counts as missing from then on, so that an exporter writes it anew.

use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use crate::cache::disk::Disk;
use crate::cache::known::{Known, Trust};
use crate::cache::{Error, Outgoing, Result, layout};
use crate::metrics::Metrics;
use crate::store::Meta;
use crate::types::{Crc64, Crc64Hasher, Digest, Hasher, Scope, Sums};

/// Verifies what is read. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Verifier {
    known: Known,
    /// Must not serve a blob any more that is found corrupt.
    disk: Option<Arc<Disk>>,
    metrics: Metrics,
}

/// The stored object that a blob's bytes come from.
#[derive(Debug, Clone)]
struct Version {
    scope: Scope,
    digest: Digest,
    meta: Meta,
}

/// A blob on its way out.
struct Verifying {
    verifier: Verifier,
    version: Version,
    body: Outgoing,
    at: u64,
    /// `None` once the blob is judged.
    check: Option<Check>,
}

/// What a blob is compared with.
enum Check {
    Digest(Box<Hasher>),
    /// The checksum that it should have.
    Crc(Box<Crc64Hasher>, Crc64),
}

impl Verifier {
    pub(super) fn new(known: Known, disk: Option<Arc<Disk>>, metrics: Metrics) -> Self {
        Self { known, disk, metrics }
    }

    /// Records a version that is about to be read.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it is in quarantine.
    pub(super) fn admit(&self, scope: &Scope, digest: &Digest, meta: &Meta) -> Result<()> {
        if self.known.record_present(scope, digest, meta.clone()) { Ok(()) } else { Err(Error::NotFound(quarantined(digest))) }
    }

    /// The body of a blob that is read whole, which ends in an error where it is not what it should be.
    pub(super) fn verified(&self, scope: &Scope, digest: &Digest, meta: &Meta, body: Outgoing) -> Outgoing {
        let crc = self.known.trust(scope, digest, &meta.etag).and_then(Trust::crc);
        let check = crc.map_or_else(|| Check::Digest(Box::default()), |crc| Check::Crc(Box::default(), crc));
        let version = Version { scope: scope.clone(), digest: *digest, meta: meta.clone() };
        let verifying = Verifying { verifier: self.clone(), version, body, at: 0, check: Some(check) };
        stream::try_unfold(verifying, |mut verifying| async move {
            let chunk = verifying.body.try_next().await?;
            if let Some(chunk) = &chunk {
                verifying.at += chunk.len() as u64;
                match &mut verifying.check {
                    Some(Check::Digest(hasher)) => hasher.update(chunk),
                    Some(Check::Crc(hasher, _)) => hasher.update(chunk),
                    None => {}
                }
            }
            if chunk.is_none() || verifying.at >= verifying.version.meta.size {
                verifying.judge()?;
            }
            Ok(chunk.map(|chunk| (chunk, verifying)))
        })
        .boxed()
    }

    /// Judges a version by the digest of its bytes.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where that is not the blob's; the version is in quarantine then.
    pub(super) fn judge(&self, scope: &Scope, digest: &Digest, meta: &Meta, sums: &Sums) -> Result<()> {
        let actual = &sums.digest;
        if actual == digest {
            self.known.record_trust(scope, digest, &meta.etag, Trust::Verified(sums.crc));
            return Ok(());
        }
        if self.known.record_trust(scope, digest, &meta.etag, Trust::Corrupt) {
            self.metrics.blob_corrupt();
            let key = layout::blob_key(scope, digest);
            let size = meta.size;
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
        if let Some(disk) = &self.disk {
            disk.forget(digest);
        }
        Err(Error::Corrupt(format!("blob {digest}: the stored bytes have the digest {actual}")))
    }
}

impl Version {
    /// Judges a version that was verified before by the checksum of its bytes.
    fn compare(&self, known: &Known, actual: Crc64, expected: Crc64) -> Result<()> {
        if actual == expected {
            return Ok(());
        }
        let Self { scope, digest, meta } = self;
        known.record_trust(scope, digest, &meta.etag, Trust::Suspect);
        let what = format!("blob {digest}: what came has the CRC-64/NVME {actual}, where {expected} was verified");
        tracing::warn!(blob.digest = %digest, object.etag = meta.etag.as_str(), "{what}; its digest is computed at the next read");
        Err(Error::Corrupt(what))
    }
}

impl Verifying {
    /// Judges the blob once, when all of it has arrived.
    fn judge(&mut self) -> Result<()> {
        let Some(check) = self.check.take() else { return Ok(()) };
        let Version { scope, digest, meta } = &self.version;
        if self.at < meta.size {
            return Err(Error::Unavailable(format!("reading blob {digest} ended {} bytes early", meta.size - self.at)));
        }
        match check {
            Check::Digest(hasher) => self.verifier.judge(scope, digest, meta, &hasher.finish()),
            Check::Crc(hasher, crc) => self.version.compare(&self.verifier.known, hasher.finish(), crc),
        }
    }
}

/// What an error says of a blob in quarantine.
pub(super) fn quarantined(digest: &Digest) -> String {
    format!("blob {digest}: what is stored is corrupt")
}
