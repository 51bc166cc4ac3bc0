//! Publishing a manifest: no blob that it names may be missing, and nothing that another exporter published under the same
//! name meanwhile may be lost.
//!
//! BuildKit puts a manifest without a condition, since it does not know what it replaces. Such a manifest is merged with what
//! is stored (see `document/merge`), under the condition that this is what is replaced. Where another exporter was faster,
//! all of that begins again. A put with a condition replaces, or fails.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use time::OffsetDateTime;

use super::vouch::Vouching;
use crate::cache::known::{Absent, Hits, Known};
use crate::cache::locks::Locks;
use crate::cache::read::ManifestReader;
use crate::cache::{CacheConfig, Condition, Error, Manifest, MergeLimits, Result, StoredConfig, Stripped, layout};
use crate::metrics::Metrics;
use crate::store::{self, Backoff, Body, Store};
use crate::types::{BucketName, Denied, Digest, ETag, Grant, Key, ManifestName};

/// Missing blobs that an error names.
const MISSING_SHOWN: usize = 3;
/// Puts of one manifest until the others have won.
const ATTEMPTS: u32 = 20;
/// The shortest pause between them, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(20), Duration::from_secs(1));

/// The ETag of no object, in the form of one.
const NO_VERSION: &str = "00000000000000000000000000000000";

/// How manifests of one name are merged.
#[derive(Debug, Clone, Copy)]
pub struct MergeRules {
    /// Exports whose results stay, the newest one included.
    pub max_generations: usize,
    /// Records that a manifest may come to have by it.
    pub max_records: usize,
    /// Results that neither an export nor an import used for this time are not inherited.
    pub max_age: Duration,
}

/// Publishes manifests, each merged with the stored one of its name.
#[derive(Debug)]
pub(super) struct Publisher {
    known: Known,
    hits: Hits,
    reader: ManifestReader,
    vouching: Vouching,
    rules: Option<MergeRules>,
    /// Exporters of this process wait for each other: they rarely meet in the store, and
    /// never in one that knows no conditional writes.
    locks: Locks,
    /// Whether the store of each bucket heeds the conditions of writes, where that is known.
    conditional: Mutex<HashMap<BucketName, bool>>,
    metrics: Metrics,
}

/// A manifest that is being published.
pub(super) struct Publication<'a> {
    grant: &'a Grant,
    name: &'a ManifestName,
    key: Key,
    document: Bytes,
    config: CacheConfig,
    /// Blobs that the exporter was told are there: it is no error that they are gone.
    promised: BTreeSet<Digest>,
    /// The blobs of the stored manifest that imports have read.
    hits: BTreeSet<Digest>,
}

impl<'a> Publication<'a> {
    pub(super) fn new(grant: &'a Grant, name: &'a ManifestName, document: Bytes, config: CacheConfig, promised: BTreeSet<Digest>) -> Self {
        let key = layout::manifest_key(grant.scope(), name);
        Self { grant, name, key, document, config, promised, hits: BTreeSet::new() }
    }
}

impl Publisher {
    pub(super) fn new(
        known: Known,
        hits: Hits,
        reader: ManifestReader,
        vouching: Vouching,
        rules: Option<MergeRules>,
        metrics: Metrics,
    ) -> Self {
        Self { known, hits, reader, vouching, rules, locks: Locks::default(), conditional: Mutex::default(), metrics }
    }

    /// Publishes a manifest, merged with the stored one.
    pub(super) async fn merge(&self, store: &dyn Store, mut publication: Publication<'_>) -> Result<ETag> {
        let scope = publication.grant.scope();
        let name = publication.name;
        let bucket = scope.bucket();
        let _alone = self.locks.lock(layout::manifest_place(scope, name)).await;
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        publication.hits = self.hits.of(scope, name);
        for _ in 0..ATTEMPTS {
            let (document, mut condition) = self.merged(store, &publication).await?;
            if self.is_conditional(bucket) == Some(false) {
                condition = Condition::None;
            }
            match store.put(&publication.key, Body::Bytes(document.clone()), condition.clone()).await {
                Err(store::Error::Precondition(_)) => {
                    self.learn(bucket, true);
                    self.metrics.manifests().conflicted();
                    tracing::info!(manifest.name = %name, "another exporter published {name} at this moment: merging with what it put");
                    tokio::time::sleep(backoff.pause()).await;
                }
                Err(store::Error::Unsupported(_)) => {
                    self.learn(bucket, false);
                    return Ok(store.put(&publication.key, Body::Bytes(document), Condition::None).await?);
                }
                stored => {
                    let etag = stored?;
                    self.hits.record_written(scope, name, &publication.hits);
                    if condition != Condition::None {
                        self.try_conditions(store, bucket, &publication.key, document).await;
                    }
                    return Ok(etag);
                }
            }
        }
        Err(Error::Unavailable(format!("manifest {name}: other exporters published it {ATTEMPTS} times meanwhile")))
    }

    /// The blobs that `configs` name and that are not stored.
    pub(super) async fn lost(&self, store: &dyn Store, grant: &Grant, configs: &[&CacheConfig]) -> Result<BTreeSet<Digest>> {
        let wanted: BTreeMap<Digest, u64> =
            configs.iter().flat_map(|config| config.blobs().into_keys()).map(|digest| (digest, 0)).collect();
        let Absent { missing, unknown } = self.known.bulk_lookup(grant.scope(), store, &wanted).await;
        unknown.map_or(Ok(missing), |(_, fault)| Err(fault.into()))
    }

    /// Finds out, once for each bucket, whether its store heeds conditions or passes over them in silence, as some do: no
    /// object has the version that this put asks for.
    async fn try_conditions(&self, store: &dyn Store, bucket: &BucketName, key: &Key, document: Bytes) {
        if self.is_conditional(bucket).is_some() {
            return;
        }
        match store.put(key, Body::Bytes(document), Condition::Matches(ETag::new(NO_VERSION))).await {
            Err(store::Error::Precondition(_)) => self.learn(bucket, true),
            Ok(_) | Err(store::Error::Unsupported(_)) => self.learn(bucket, false),
            // The next export asks again.
            Err(error) => tracing::debug!(%error, "cannot tell whether bucket {bucket} knows conditional writes"),
        }
    }

    /// What to store now, and under which condition.
    async fn merged(&self, store: &dyn Store, publication: &Publication<'_>) -> Result<(Bytes, Condition)> {
        let Publication { grant, name, config: sent, promised, .. } = publication;
        let base = self.base(store, grant, name).await?;
        let stored = base.as_ref().filter(|_| self.rules.is_some());
        let configs: Vec<&CacheConfig> = std::iter::once(sent).chain(stored.map(|stored| &stored.config)).collect();
        let lost = self.lost(store, grant, &configs).await?;
        refuse_missing(name, sent, &lost.difference(promised).copied().collect())?;

        let mut document = publication.document.clone();
        if let Some(stored) = stored {
            self.vouching.accept_vouched(grant.scope(), &stored.config);
        }
        let stripped = sent.without(&lost);
        if let Some(stripped) = &stripped {
            document = stripped.config.to_json().into();
            self.report_stripped(name, stripped);
        }
        let mut config = stripped.map_or(Cow::Borrowed(sent), |stripped| Cow::Owned(stripped.config));
        if let (Some(rules), Some(stored)) = (&self.rules, stored)
            && let Some(merged) = self.inheriting(publication, &config, stored, &lost, rules)
        {
            document = merged.to_json().into();
            config = Cow::Owned(merged);
        }
        document = self.vouched_document(grant, &config).unwrap_or(document);
        let condition = match (self.rules, base) {
            (None, _) => Condition::None,
            (Some(_), None) => Condition::Absent,
            (Some(_), Some(stored)) => Condition::Matches(stored.etag),
        };
        Ok((document, condition))
    }

    /// `config` with results of the stored manifest; `None`: there are none to inherit.
    fn inheriting(
        &self,
        publication: &Publication<'_>,
        config: &CacheConfig,
        stored: &Manifest,
        lost: &BTreeSet<Digest>,
        rules: &MergeRules,
    ) -> Option<CacheConfig> {
        let limits = MergeLimits {
            max_generations: rules.max_generations,
            max_records: rules.max_records,
            max_bytes: self.reader.max_bytes(),
            oldest: OffsetDateTime::now_utc() - rules.max_age,
        };
        let stripped = stored.config.without(lost);
        let remaining = stripped.as_ref().map_or(&stored.config, |stripped| &stripped.config);
        let merged = config.merged(&StoredConfig { config: remaining, at: stored.modified, hits: &publication.hits }, &limits);
        if merged.inherited == 0 {
            return None;
        }
        self.metrics.manifests().merged();
        let name = publication.name;
        tracing::info!(
            manifest.name = %name,
            "manifest {name} is merged with the stored one: {} results of other exports kept, {} dropped",
            merged.inherited,
            merged.dropped
        );
        Some(merged.config)
    }

    fn report_stripped(&self, name: &ManifestName, stripped: &Stripped) {
        self.metrics.manifests().pruned(stripped.layers, stripped.records);
        tracing::warn!(
            manifest.name = %name,
            "manifest {name} is published without {} layers and {} results: blobs that were stored when the build asked are gone",
            stripped.layers,
            stripped.results
        );
    }

    /// The document with the versions of its verified blobs, where there are any and it has room for them.
    fn vouched_document(&self, grant: &Grant, config: &CacheConfig) -> Option<Bytes> {
        let document = self.vouching.vouching(grant.scope(), config)?.to_json();
        self.reader.check_size(document.len() as u64).ok()?;
        Some(document.into())
    }

    /// The manifest that is stored under this name, which a new one takes the place of.
    ///
    /// # Errors
    /// [`Error::Denied`] where something else is stored there, or the store's.
    pub(super) async fn base(&self, store: &dyn Store, grant: &Grant, name: &ManifestName) -> Result<Option<Manifest>> {
        match self.reader.read(store, grant.scope(), name).await {
            Ok(manifest) => Ok(Some(manifest)),
            Err(Error::NotFound(_)) => Ok(None),
            Err(unreadable @ (Error::Corrupt(_) | Error::Exhausted(_))) => {
                let place = layout::manifest_place(grant.scope(), name);
                Err(Denied::new(format!(
                    "what is stored as {place} is no cache manifest, and is not replaced by one ({unreadable}): export to another name, \
                     or delete it"
                ))
                .into())
            }
            Err(error) => Err(error),
        }
    }

    fn is_conditional(&self, bucket: &BucketName) -> Option<bool> {
        self.conditional().get(bucket).copied()
    }

    fn learn(&self, bucket: &BucketName, is_conditional: bool) {
        if self.conditional().insert(bucket.clone(), is_conditional).is_none() && !is_conditional {
            tracing::warn!(
                "bucket {bucket} knows no conditional writes: exporters to one name lose each other's results where they go through \
                 different remoras at the same time"
            );
        }
    }

    fn conditional(&self) -> MutexGuard<'_, HashMap<BucketName, bool>> {
        self.conditional.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Refuses a manifest that names any of the blobs `missing`.
pub(super) fn refuse_missing(name: &ManifestName, config: &CacheConfig, missing: &BTreeSet<Digest>) -> Result<()> {
    let named = config.blobs();
    let missing: Vec<&Digest> = missing.iter().filter(|digest| named.contains_key(digest)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    let shown: Vec<String> = missing.iter().take(MISSING_SHOWN).map(ToString::to_string).collect();
    Err(Error::Precondition(format!("manifest {name} names {} blobs that are not stored, {} among them", missing.len(), shown.join(", "))))
}
