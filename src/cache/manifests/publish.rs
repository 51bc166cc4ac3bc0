//! Publishing a manifest: no blob that it names may be missing, and nothing that another exporter put
//! under the same name meanwhile may be lost.
//!
//! BuildKit puts a manifest without a condition, since it does not know what it replaces. Such a put is
//! united with what is stored (see `merge`), under the condition that this is what is replaced; where
//! another exporter was faster, from the start. A put with a condition replaces, or fails.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;

use crate::cache::known::Absent;
use crate::cache::locks::Locks;
use crate::cache::{Cache, CacheConfig, Condition, Error, Manifest, MergeLimits, Result, StoredConfig, layout};
use crate::store::{self, Backoff, Body, Store};
use crate::types::{BucketName, Digest, ETag, Grant, Key, ManifestName, Right};

/// Missing blobs that an error names.
const MISSING_SHOWN: usize = 3;
/// Puts of one manifest until the others have won.
const ATTEMPTS: u32 = 20;
/// Pauses between them, the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The ETag of no object, in the form of one.
const NO_VERSION: &str = "00000000000000000000000000000000";

/// How manifests of one name are united.
#[derive(Debug, Clone, Copy)]
pub struct MergeRules {
    /// Exports whose results stay, the newest one included.
    pub max_generations: usize,
    /// Records that a manifest may come to have by it.
    pub max_records: usize,
    /// Results that neither an export nor an import used for so long are not inherited.
    pub max_age: Duration,
}

/// What publishing needs to know from one put to the next.
#[derive(Debug, Default)]
pub(in crate::cache) struct Publishing {
    /// Exporters of this process wait for each other: fewer puts meet in the store, and where it knows no
    /// conditions, none.
    locks: Locks,
    /// Whether the store of each bucket heeds the conditions of writes, where that is known.
    conditional: Mutex<HashMap<BucketName, bool>>,
}

impl Publishing {
    fn is_conditional(&self, bucket: &BucketName) -> Option<bool> {
        self.conditional.lock().unwrap_or_else(PoisonError::into_inner).get(bucket).copied()
    }

    fn learn(&self, bucket: &BucketName, conditional: bool) {
        if self.conditional.lock().unwrap_or_else(PoisonError::into_inner).insert(bucket.clone(), conditional).is_none() && !conditional {
            tracing::warn!(
                "bucket {bucket} knows no conditional writes: exporters to one name lose each other's results where they go through \
                 different remoras at the same time"
            );
        }
    }
}

/// A manifest on its way in.
struct Sent<'a> {
    grant: &'a Grant,
    name: &'a ManifestName,
    key: Key,
    document: Bytes,
    config: CacheConfig,
}

impl Cache {
    /// Publishes a manifest when every blob that it names is stored.
    ///
    /// Under a grant for `durability = "local"` and [`Condition::None`] it is acknowledged when the journal has it,
    /// and published later; what is not stored by then is left out of it.
    ///
    /// With [`Condition::None`] it is united with what is stored under that name, if
    /// [`Settings::merge`](crate::cache::Settings::merge) is set; where nothing is, or nothing of it is worth
    /// keeping, the document is stored as given, but for the versions of verified blobs (see `vouch`). A blob that was there when its writer asked
    /// and is gone now is no error then: the results that need it are left out.
    ///
    /// # Errors
    /// [`Error::Invalid`] for a document that is no cache config, [`Error::Precondition`] where a blob is
    /// missing, [`Error::Conflict`] where `condition` does not hold, [`Error::Exhausted`] above the bound,
    /// [`Error::Unavailable`] where others kept putting, [`Error::Denied`], or the store's. In each case
    /// what was published before is still there.
    pub async fn put_manifest(&self, grant: &Grant, name: &ManifestName, document: Bytes, condition: Condition) -> Result<ETag> {
        grant.check_manifest(Right::Write, name)?;
        self.check_manifest_size(document.len() as u64)?;
        let config = CacheConfig::parse(&document).map_err(|malformed| Error::Invalid(format!("manifest {name}: {malformed}")))?;
        if condition == Condition::None
            && let Some(acknowledged) = self.journal_manifest(grant, name, &document, &config).await?
        {
            grant.usage().manifest_written();
            return Ok(acknowledged);
        }
        let store = self.store(grant)?;
        let key = layout::manifest_key(grant.scope(), name);
        let sent = Sent { grant, name, key, document, config };
        let etag = match condition {
            Condition::None => {
                let scope = grant.scope();
                let promised = sent.config.blobs().into_keys().filter(|digest| self.0.known.recall(scope, digest).is_some()).collect();
                self.unite(store.as_ref(), sent, &promised).await?
            }
            condition => {
                let missing = self.lost(store.as_ref(), grant, &[&sent.config]).await?;
                self.refuse(&sent, &missing)?;
                store.put(&sent.key, Body::Bytes(sent.document), condition).await?
            }
        };
        grant.usage().manifest_written();
        Ok(etag)
    }

    /// Publishes a manifest that was acknowledged before, as [`Cache::put_manifest`] does; whichever of its blobs is
    /// not stored, the results that need it are left out.
    ///
    /// # Errors
    /// The same, but none for a missing blob.
    pub(in crate::cache) async fn publish_promised(&self, grant: &Grant, name: &ManifestName, document: Bytes) -> Result<ETag> {
        let config = CacheConfig::parse(&document).map_err(|malformed| Error::Invalid(format!("manifest {name}: {malformed}")))?;
        let (store, key) = (self.store(grant)?, layout::manifest_key(grant.scope(), name));
        let promised = config.blobs().into_keys().collect();
        self.unite(store.as_ref(), Sent { grant, name, key, document, config }, &promised).await
    }

    /// Unites a manifest with the stored one. Blobs that are `promised` may be gone.
    async fn unite(&self, store: &dyn Store, sent: Sent<'_>, promised: &BTreeSet<Digest>) -> Result<ETag> {
        let (bucket, name) = (sent.grant.scope().bucket(), sent.name);
        let _alone = self.0.publishing.locks.lock((bucket, sent.key.as_str())).await;
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        let hits = self.0.hits.of(sent.grant.scope(), name);
        for _ in 0..ATTEMPTS {
            let (document, mut condition) = self.united(store, &sent, promised, &hits).await?;
            if self.0.publishing.is_conditional(bucket) == Some(false) {
                condition = Condition::None;
            }
            match store.put(&sent.key, Body::Bytes(document.clone()), condition.clone()).await {
                Err(store::Error::Precondition(_)) => {
                    self.0.publishing.learn(bucket, true);
                    self.0.metrics.manifests().conflicted();
                    tracing::info!(manifest.name = %name, "another exporter published {name} at this moment: merging with what it put");
                    tokio::time::sleep(backoff.pause()).await;
                }
                Err(store::Error::Unsupported(_)) => {
                    self.0.publishing.learn(bucket, false);
                    return Ok(store.put(&sent.key, Body::Bytes(document), Condition::None).await?);
                }
                stored => {
                    let etag = stored?;
                    self.0.hits.record_written(sent.grant.scope(), name, &hits);
                    if condition != Condition::None {
                        self.try_conditions(store, bucket, &sent.key, document).await;
                    }
                    return Ok(etag);
                }
            }
        }
        Err(Error::Unavailable(format!("manifest {name}: other exporters published it {ATTEMPTS} times meanwhile")))
    }

    /// Finds out, once for each bucket, whether its store heeds conditions or passes over them in silence, as
    /// some do: no object is this version.
    async fn try_conditions(&self, store: &dyn Store, bucket: &BucketName, key: &Key, document: Bytes) {
        if self.0.publishing.is_conditional(bucket).is_some() {
            return;
        }
        match store.put(key, Body::Bytes(document), Condition::Matches(ETag::new(NO_VERSION))).await {
            Err(store::Error::Precondition(_)) => self.0.publishing.learn(bucket, true),
            Ok(_) | Err(store::Error::Unsupported(_)) => self.0.publishing.learn(bucket, false),
            // The next export asks again.
            Err(error) => tracing::debug!(%error, "cannot tell whether bucket {bucket} knows conditional writes"),
        }
    }

    /// What to store now, and under which condition.
    async fn united(
        &self,
        store: &dyn Store,
        sent: &Sent<'_>,
        promised: &BTreeSet<Digest>,
        hits: &BTreeSet<Digest>,
    ) -> Result<(Bytes, Condition)> {
        let name = sent.name;
        let base = match self.0.settings.merge {
            Some(_) => self.base(store, sent).await?,
            None => None,
        };
        let stored = base.as_ref().and_then(|(_, manifest)| manifest.as_ref());
        let configs: Vec<&CacheConfig> = std::iter::once(&sent.config).chain(stored.map(|stored| &stored.config)).collect();
        let missing = self.lost(store, sent.grant, &configs).await?;
        self.refuse(sent, &missing.difference(promised).copied().collect())?;

        let mut document = sent.document.clone();
        if let Some(stored) = stored {
            self.take_word(sent.grant.scope(), &stored.config);
        }
        let pruned = sent.config.without(&missing);
        if let Some(pruned) = &pruned {
            document = pruned.config.to_json().into();
            self.0.metrics.manifests().pruned(pruned.layers, pruned.records);
            tracing::warn!(
                manifest.name = %name,
                "manifest {name} is published without {} layers and {} results: blobs that were stored when the build asked are gone",
                pruned.layers,
                pruned.results
            );
        }
        let mut config = pruned.map_or(Cow::Borrowed(&sent.config), |pruned| Cow::Owned(pruned.config));
        if let (Some(rules), Some(stored)) = (&self.0.settings.merge, stored) {
            let limits = MergeLimits {
                max_generations: rules.max_generations,
                max_records: rules.max_records,
                max_bytes: self.0.settings.max_manifest_bytes,
                oldest: OffsetDateTime::now_utc() - rules.max_age,
            };
            let pruned = stored.config.without(&missing);
            let remaining = pruned.as_ref().map_or(&stored.config, |pruned| &pruned.config);
            let merged = config.merged(&StoredConfig { config: remaining, at: stored.modified, hits }, &limits);
            if merged.inherited > 0 {
                document = merged.config.to_json().into();
                self.0.metrics.manifests().merged();
                tracing::info!(
                    manifest.name = %name,
                    "manifest {name} is merged with the stored one: {} results of other exports kept, {} dropped",
                    merged.inherited,
                    merged.dropped
                );
                config = Cow::Owned(merged.config);
            }
        }
        document = self.vouched_document(sent.grant, &config).unwrap_or(document);
        let condition = match (self.0.settings.merge, base) {
            (None, _) => Condition::None,
            (Some(_), None) => Condition::Absent,
            (Some(_), Some((etag, _))) => Condition::Matches(etag),
        };
        Ok((document, condition))
    }

    /// The document with the versions of its verified blobs, where there are any and it has room for them.
    fn vouched_document(&self, grant: &Grant, config: &CacheConfig) -> Option<Bytes> {
        let document = self.vouching(grant.scope(), config)?.to_json();
        self.check_manifest_size(document.len() as u64).ok()?;
        Some(document.into())
    }

    /// The version that is stored, with the manifest where it can be read as one.
    async fn base(&self, store: &dyn Store, sent: &Sent<'_>) -> Result<Option<(ETag, Option<Manifest>)>> {
        match self.0.manifest_reader.read(store, sent.grant.scope(), sent.name).await {
            Ok(manifest) => Ok(Some((manifest.etag.clone(), Some(manifest)))),
            Err(Error::NotFound(_)) => Ok(None),
            Err(unreadable @ (Error::Corrupt(_) | Error::Exhausted(_))) => {
                tracing::warn!(manifest.name = %sent.name, "what is stored as {} is replaced: {unreadable}", sent.name);
                match store.head(&sent.key).await {
                    Ok(meta) => Ok(Some((meta.etag, None))),
                    Err(store::Error::NotFound(_)) => Ok(None),
                    Err(error) => Err(error.into()),
                }
            }
            Err(error) => Err(error),
        }
    }

    /// The blobs that `configs` name and that are not stored.
    async fn lost(&self, store: &dyn Store, grant: &Grant, configs: &[&CacheConfig]) -> Result<BTreeSet<Digest>> {
        let wanted: BTreeMap<Digest, u64> =
            configs.iter().flat_map(|config| config.blobs().into_keys()).map(|digest| (digest, 0)).collect();
        let Absent { missing, unknown } = self.0.known.bulk_lookup(grant.scope(), store, &wanted).await;
        unknown.map_or(Ok(missing), |(_, fault)| Err(fault.into()))
    }

    fn refuse(&self, sent: &Sent<'_>, missing: &BTreeSet<Digest>) -> Result<()> {
        let named = sent.config.blobs();
        let missing: Vec<&Digest> = missing.iter().filter(|digest| named.contains_key(digest)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let shown: Vec<String> = missing.iter().take(MISSING_SHOWN).map(ToString::to_string).collect();
        Err(Error::Precondition(format!(
            "manifest {} names {} blobs that are not stored, {} among them",
            sent.name,
            missing.len(),
            shown.join(", ")
        )))
    }
}
