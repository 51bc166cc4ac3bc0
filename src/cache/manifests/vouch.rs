//! Which version of each blob was verified, written into manifests for whoever imports them.
//!
//! BuildKit decides by the manifest which layers to use and reads them later, when it is too late to find
//! that one is corrupt. So a manifest says beside each layer which ETag its object had when a remora wrote
//! or verified it: a lookup then tells that the bytes are still those. A blob that was changed since is read
//! before the manifest is served. It also says which checksum the blob had, to check reads with (see `verify`).
//! BuildKit's own client writes no such fields and skips them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use serde_json::Value;

use crate::cache::known::Trust;
use crate::cache::{Cache, CacheConfig, Result, layout};
use crate::store::{self, Meta, Store};
use crate::types::{Crc64, Digest, ETag, Grant, ManifestName, Scope};

/// The object's ETag when it was verified, among a layer's annotations.
const ETAG: &str = "remoraETag";
/// The [`Crc64`] of its bytes, beside that.
const CRC: &str = "remoraCRC64NVME";
/// Blobs that are verified at once before a manifest is served.
const READS_AT_ONCE: usize = 4;
/// How long the build waits for that, all together.
const PATIENCE: Duration = Duration::from_secs(10);

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

/// What a manifest says of a blob: the versions that were verified, and their checksum.
type Vouched<'a> = BTreeMap<&'a str, Option<Crc64>>;

impl Cache {
    /// Those of the blobs of `config` that are not what they were when they were verified, and cannot be
    /// found good in time. All that are stored must have been looked up just now.
    pub(in crate::cache) async fn changed(&self, grant: &Grant, name: &ManifestName, config: &CacheConfig) -> Result<BTreeSet<Digest>> {
        let scope = grant.scope();
        let suspects = self.take_word(scope, config);
        if suspects.is_empty() {
            return Ok(BTreeSet::new());
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
        Ok(bad)
    }

    /// Takes a stored manifest's word for the blobs that are still the version that it vouches for. Returns
    /// those that are another one, of which nothing good is known, with what the manifest says of them.
    pub(in crate::cache) fn take_word<'a>(&self, scope: &Scope, config: &'a CacheConfig) -> BTreeMap<Digest, Vouched<'a>> {
        let mut vouched = config.vouched();
        vouched.retain(|digest, vouched| {
            let Some(stored) = self.0.known.last(scope, digest) else { return false };
            !self.is_vouched(scope, digest, &stored.etag, vouched)
        });
        vouched
    }

    /// Whether a version is good, by what this process knows or else by what a manifest says.
    fn is_vouched(&self, scope: &Scope, digest: &Digest, etag: &ETag, vouched: &Vouched<'_>) -> bool {
        if let Some(crc) = vouched.get(etag.as_str()) {
            self.0.known.record_trust(scope, digest, etag, Trust::Vouched(*crc));
        }
        self.is_known_good(scope, digest, etag)
    }

    /// The digest, where the blob is what it should be.
    async fn is_good(&self, grant: &Grant, digest: Digest, vouched: &Vouched<'_>) -> Option<Digest> {
        let scope = grant.scope();
        let object = self.0.reads.open_stored(grant, &digest).await.ok()?;
        if self.is_vouched(scope, &digest, &object.meta.etag, vouched) {
            // The lookup told of another version than is there.
            return self.0.known.record_present(scope, &digest, object.meta).then_some(digest);
        }
        let mut body = self.0.reads.verified(scope, &digest, object);
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

    /// The config with version and checksum of each blob that is known to be good; `None`: there is nothing to add.
    /// What it says of other blobs is left to be checked at import.
    pub(in crate::cache) fn vouching(&self, scope: &Scope, config: &CacheConfig) -> Option<CacheConfig> {
        let mut vouching = config.clone();
        for layer in vouching.layers.iter_mut().flatten() {
            let (Ok(digest), Some(annotations)) = (layer.blob.parse::<Digest>(), layer.annotations.as_mut()) else { continue };
            if self.0.touches.is_waiting(scope, &digest) {
                // It will be another version in a moment.
                annotations.extra.remove(ETAG);
                annotations.extra.remove(CRC);
            } else if let Some(stored) = self.0.known.last(scope, &digest)
                && let Some(standing) = self.0.known.trust(scope, &digest, &stored.etag).filter(Trust::is_good)
            {
                annotations.extra.insert(ETAG.to_owned(), Value::from(stored.etag.as_str()));
                let crc = standing.crc().map(|crc| (CRC.to_owned(), Value::from(crc.to_string())));
                annotations.extra.extend(crc);
            }
        }
        (vouching != *config).then_some(vouching)
    }

    fn is_known_good(&self, scope: &Scope, digest: &Digest, etag: &ETag) -> bool {
        self.0.known.trust(scope, digest, etag).is_some_and(|standing| standing.is_good())
    }

    /// Makes a blob young in the store. That gives some objects another ETag: what is known of the bytes
    /// goes with them, for which the touched object is looked at.
    pub(in crate::cache) async fn touch_stored(&self, scope: &Scope, store: &dyn Store, digest: &Digest) -> store::Result<Option<Meta>> {
        let key = layout::blob_key(scope, digest);
        let standing = |etag: &ETag| self.0.known.trust(scope, digest, etag);
        let worth_a_look = self.0.known.last(scope, digest).is_some_and(|seen| standing(&seen.etag).is_some());
        let known = if worth_a_look { standing(&store.head(&key).await?.etag) } else { None };
        store.touch(&key).await?;
        let Some(standing) = known else { return Ok(None) };
        let touched = store.head(&key).await?;
        self.0.known.record_trust(scope, digest, &touched.etag, standing);
        self.0.known.record_present(scope, digest, touched.clone());
        Ok(Some(touched))
    }
}
