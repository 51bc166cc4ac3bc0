//! Which version of each blob was verified, written into manifests for whoever imports them.
//!
//! BuildKit decides by the manifest which layers to use and reads them later, when it is too late to find that one is
//! corrupt. So a manifest says beside each layer which ETag its object had when a remora wrote or verified it. A lookup then
//! tells that the bytes are still those. A blob that was changed since is read before the manifest is served. The manifest
//! also says which checksum the blob had, to verify reads with. BuildKit's own client writes no such fields and skips them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::Value;

use crate::cache::CacheConfig;
use crate::cache::known::{Known, Trust};
use crate::cache::read::Reads;
use crate::cache::write::Touches;
use crate::types::{Crc64, Digest, ETag, Grant, ManifestName, Scope};

/// The object's ETag when it was verified, among a layer's annotations.
const ETAG: &str = "remoraETag";
/// The [`Crc64`] of its bytes, beside that.
const CRC: &str = "remoraCRC64NVME";
/// Blobs that are verified at once before a manifest is served.
const READS_AT_ONCE: usize = 4;
/// How long the build waits for that, all together.
const PATIENCE: Duration = Duration::from_secs(10);

/// Writes into manifests what is known of their blobs, and accepts what they say. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Vouching {
    known: Known,
    reads: Arc<Reads>,
    touches: Arc<Touches>,
}

/// What a manifest says of a blob: the versions that were verified, and their checksum.
type Vouched<'a> = BTreeMap<&'a str, Option<Crc64>>;

impl CacheConfig {
    /// The versions that it vouches for.
    fn vouched(&self) -> BTreeMap<Digest, Vouched<'_>> {
        let mut vouched: BTreeMap<Digest, Vouched<'_>> = BTreeMap::new();
        for layer in self.layers() {
            let said = |what| layer.annotations.as_ref()?.extra.get(what)?.as_str();
            if let (Ok(digest), Some(etag)) = (layer.blob.parse(), said(ETAG)) {
                vouched.entry(digest).or_default().insert(etag, said(CRC).and_then(|crc| crc.parse().ok()));
            }
        }
        vouched
    }
}

impl Vouching {
    pub(super) fn new(known: Known, reads: Arc<Reads>, touches: Arc<Touches>) -> Self {
        Self { known, reads, touches }
    }

    /// The blobs of `config` that are not what they were when they were verified, and cannot be found good in time. All that
    /// are stored must have been looked up just now.
    pub(super) async fn changed(&self, grant: &Grant, name: &ManifestName, config: &CacheConfig) -> BTreeSet<Digest> {
        let suspects = self.accept_vouched(grant.scope(), config);
        if suspects.is_empty() {
            return BTreeSet::new();
        }
        let mut bad: BTreeSet<Digest> = suspects.keys().copied().collect();
        // Collected first: a lazy iterator of futures that borrow is not `Send`.
        let checks: Vec<_> = suspects.iter().map(|(digest, vouched)| self.is_good(grant, *digest, vouched)).collect();
        let mut checks = stream::iter(checks).buffer_unordered(READS_AT_ONCE);
        let in_time = tokio::time::timeout(PATIENCE, async {
            while let Some(good) = checks.next().await {
                if let Some(digest) = good {
                    bad.remove(&digest);
                }
            }
        });
        if in_time.await.is_err() {
            tracing::warn!(manifest.name = %name, "manifest {name}: changed blobs could not all be verified in {PATIENCE:?}");
        }
        tracing::info!(
            manifest.name = %name,
            "manifest {name}: {} blobs have changed since they were verified, {} of them were found good",
            suspects.len(),
            suspects.len() - bad.len()
        );
        bad
    }

    /// Trusts those blobs of a stored manifest that are still the version that it vouches for. Returns those
    /// whose stored version is another one that is not trusted, with what the manifest says of each.
    pub(super) fn accept_vouched<'a>(&self, scope: &Scope, config: &'a CacheConfig) -> BTreeMap<Digest, Vouched<'a>> {
        let mut vouched = config.vouched();
        vouched.retain(|digest, vouched| {
            let Some(stored) = self.known.last(scope, digest) else { return false };
            !self.is_vouched(scope, digest, &stored.etag, vouched)
        });
        vouched
    }

    /// The config with version and checksum of each blob that is known to be good. `None`: there is nothing to add. What it
    /// says of other blobs is left to be checked at import.
    pub(super) fn vouching(&self, scope: &Scope, config: &CacheConfig) -> Option<CacheConfig> {
        let mut vouching = config.clone();
        for layer in vouching.layers.iter_mut().flatten() {
            let (Ok(digest), Some(annotations)) = (layer.blob.parse::<Digest>(), layer.annotations.as_mut()) else { continue };
            if self.touches.is_waiting(scope, &digest) {
                // It will be another version in a moment.
                annotations.extra.remove(ETAG);
                annotations.extra.remove(CRC);
            } else if let Some(stored) = self.known.last(scope, &digest)
                && let Some(trust) = self.known.trust(scope, &digest, &stored.etag).filter(Trust::is_good)
            {
                annotations.extra.insert(ETAG.to_owned(), Value::from(stored.etag.as_str()));
                let crc = trust.crc().map(|crc| (CRC.to_owned(), Value::from(crc.to_string())));
                annotations.extra.extend(crc);
            }
        }
        (vouching != *config).then_some(vouching)
    }

    /// Whether a version is good, by what this process knows or else by what a manifest says.
    fn is_vouched(&self, scope: &Scope, digest: &Digest, etag: &ETag, vouched: &Vouched<'_>) -> bool {
        if let Some(crc) = vouched.get(etag.as_str()) {
            self.known.record_trust(scope, digest, etag, Trust::Vouched(*crc));
        }
        self.known.trust(scope, digest, etag).is_some_and(|trust| trust.is_good())
    }

    /// The digest, where the blob is what it should be.
    async fn is_good(&self, grant: &Grant, digest: Digest, vouched: &Vouched<'_>) -> Option<Digest> {
        let scope = grant.scope();
        let object = self.reads.open_stored(grant, &digest).await.ok()?;
        if self.is_vouched(scope, &digest, &object.meta.etag, vouched) {
            // The lookup told of another version than is there.
            return self.known.record_present(scope, &digest, object.meta).then_some(digest);
        }
        let mut body = self.reads.verified(scope, &digest, object);
        loop {
            match body.try_next().await {
                Ok(Some(_)) => {}
                Ok(None) => return Some(digest),
                Err(error) => {
                    tracing::debug!(blob.digest = %digest, %error, "blob {digest} cannot be verified: {error}");
                    return None;
                }
            }
        }
    }
}
