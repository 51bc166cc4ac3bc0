//! Blobs that are read whole are hashed on their way: the last piece goes out when the digest is right.
//!
//! A version whose bytes are others is quarantined: its object stays in the store for whoever wants to look
//! at it, and counts as missing from then on, so that an exporter writes it anew. What this process wrote
//! or verified is not hashed again while its ETag is the same.

use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::versions::Standing;
use super::{Cache, Error, Outgoing, Result, layout};
use crate::store::Meta;
use crate::types::{Digest, Hasher, Scope};

/// A blob on its way out.
struct Hashing {
    cache: Cache,
    scope: Scope,
    digest: Digest,
    meta: Meta,
    body: Outgoing,
    at: u64,
    /// `None`: it is judged.
    hasher: Option<Hasher>,
}

impl Cache {
    /// Takes note of a blob that the store has. Whether it counts as there: one in quarantine does not.
    pub(super) fn seen(&self, scope: &Scope, digest: &Digest, meta: Meta) -> bool {
        let etag = meta.etag.clone();
        self.0.presence.saw(scope, digest, meta);
        // In this order: whoever quarantines it meanwhile makes it forgotten.
        let counts = self.0.versions.standing(scope, digest, &etag) != Some(Standing::Corrupt);
        if !counts {
            self.0.presence.forget(scope, digest);
        }
        counts
    }

    /// The body of a blob that is read whole, hashed unless its version is verified already.
    pub(super) fn hashed(&self, scope: &Scope, digest: &Digest, meta: &Meta, body: Outgoing) -> Outgoing {
        if self.0.versions.standing(scope, digest, &meta.etag) == Some(Standing::Verified) {
            return body;
        }
        let (cache, scope, hasher) = (self.clone(), scope.clone(), Some(Hasher::default()));
        let hashing = Hashing { cache, scope, digest: *digest, meta: meta.clone(), body, at: 0, hasher };
        stream::try_unfold(hashing, |mut hashing| async move {
            let piece = hashing.body.try_next().await?;
            if let Some(piece) = &piece {
                hashing.at += piece.len() as u64;
                if let Some(hasher) = &mut hashing.hasher {
                    hasher.update(piece);
                }
            }
            if piece.is_none() || hashing.at >= hashing.meta.size {
                hashing.judge()?;
            }
            Ok(piece.map(|piece| (piece, hashing)))
        })
        .boxed()
    }

    /// Decides of a version whose bytes have the digest `actual`.
    ///
    /// # Errors
    /// [`Error::Corrupt`] where that is another one than the blob's; the version is in quarantine then.
    pub(super) fn judge(&self, scope: &Scope, digest: &Digest, meta: &Meta, actual: &Digest) -> Result<()> {
        if actual == digest {
            self.0.versions.found(scope, digest, &meta.etag, Standing::Verified);
            return Ok(());
        }
        if self.0.versions.found(scope, digest, &meta.etag, Standing::Corrupt) {
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
        self.0.presence.forget(scope, digest);
        if let Some(disk) = &self.0.disk {
            disk.forget(digest);
        }
        Err(Error::Corrupt(format!("blob {digest}: the stored bytes have the digest {actual}")))
    }
}

impl Hashing {
    /// Decides once, when all has arrived.
    fn judge(&mut self) -> Result<()> {
        let Some(hasher) = self.hasher.take() else { return Ok(()) };
        if self.at < self.meta.size {
            return Err(Error::Unavailable(format!("reading blob {} ended {} bytes early", self.digest, self.meta.size - self.at)));
        }
        self.cache.judge(&self.scope, &self.digest, &self.meta, &hasher.finish())
    }
}
