//! Whether a blob is stored: by the session's documents, by what is remembered, else by its store.

use std::sync::Arc;

use super::manifest::ManifestReader;
use super::session_document;
use super::verify::quarantined;
use crate::cache::known::Known;
use crate::cache::locks::Locks;
use crate::cache::{BlobInfo, Result, layout};
use crate::metrics::Metrics;
use crate::store::{self, Meta, Store, Stores};
use crate::types::{Digest, Grant, Right, Scope};

/// Manifests with more blobs are not looked up in bulk: most of them would be of no use to one build.
const MAX_BULK: usize = 256;

/// Looks blobs up.
#[derive(Debug)]
pub(in crate::cache) struct Lookups {
    stores: Arc<Stores>,
    known: Known,
    manifests: ManifestReader,
    /// Held for each manifest whose blobs are being looked up for an exporter.
    bulk_lookups: Locks,
    metrics: Metrics,
}

impl Lookups {
    pub(super) fn new(stores: Arc<Stores>, known: Known, manifests: ManifestReader, metrics: Metrics) -> Self {
        Self { stores, known, manifests, bulk_lookups: Locks::default(), metrics }
    }

    /// Looks a blob up. A build's grant is answered from memory where the blob was seen lately: what the build makes of the
    /// answer is checked again when it publishes.
    ///
    /// # Errors
    /// [`Error::NotFound`](crate::cache::Error::NotFound), [`Error::Denied`](crate::cache::Error::Denied), or the store's.
    pub(in crate::cache) async fn stat(&self, grant: &Grant, digest: &Digest) -> Result<BlobInfo> {
        grant.check(Right::Exists)?;
        if let Some(document) = session_document::of(grant, digest) {
            return Ok(BlobInfo::unstored(*digest, document.len() as u64));
        }
        let store = self.stores.store(grant.scope())?;
        if let Some(meta) = self.recall(grant, store.as_ref(), digest).await {
            self.metrics.answered_from_memory();
            return Ok(BlobInfo::new(*digest, meta));
        }
        let answer = store.head(&layout::blob_key(grant.scope(), digest)).await;
        Ok(BlobInfo::new(*digest, self.record(grant.scope(), digest, answer)?))
    }

    /// Blobs behind `after`, in the order of their digests, at most `limit` (1 to 1,000); and whether there are more.
    ///
    /// # Errors
    /// [`Error::Denied`](crate::cache::Error::Denied), or the store's.
    pub(in crate::cache) async fn list(&self, grant: &Grant, after: Option<&Digest>, limit: usize) -> Result<(Vec<BlobInfo>, bool)> {
        grant.check(Right::Read)?;
        let prefix = layout::blobs_prefix(grant.scope());
        let store = self.stores.store(grant.scope())?;
        let mut after = after.map(|digest| format!("{prefix}{digest}"));
        let info = |(key, meta): (String, Meta)| {
            let digest = key.strip_prefix(&prefix)?.parse().ok()?;
            self.known.record_present(grant.scope(), &digest, meta.clone()).then(|| BlobInfo::new(digest, meta))
        };
        loop {
            let page = store.list(&prefix, after.as_deref(), limit).await?;
            after = page.entries.last().map(|(key, _)| key.clone());
            let blobs: Vec<_> = page.entries.into_iter().filter_map(info).collect();
            // A page of foreign objects gives the caller no digest to go on from.
            if !blobs.is_empty() || !page.more {
                return Ok((blobs, page.more));
            }
        }
    }

    /// The size in bytes of a blob that was seen lately. Asks no store: what has a digest keeps its size.
    ///
    /// # Errors
    /// [`Error::Denied`](crate::cache::Error::Denied).
    pub(in crate::cache) fn remembered_size(&self, grant: &Grant, digest: &Digest) -> Result<Option<u64>> {
        if let Some(document) = session_document::of(grant, digest) {
            return Ok(Some(document.len() as u64));
        }
        grant.check_blob(Right::Read, digest)?;
        Ok(self.known.recall(grant.scope(), digest).map(|meta| meta.size))
    }

    /// Records a store's answer to a lookup of a blob. One in quarantine is not found.
    pub(in crate::cache) fn record(&self, scope: &Scope, digest: &Digest, answer: store::Result<Meta>) -> store::Result<Meta> {
        match &answer {
            Ok(meta) if self.known.record_present(scope, digest, meta.clone()) => {}
            Ok(_) => return Err(store::Error::NotFound(quarantined(digest))),
            Err(store::Error::NotFound(_)) => self.known.record_absent(scope, digest),
            Err(_) => {}
        }
        answer
    }

    /// What is remembered of a blob that a build asks for. An exporter asks for all of its layers, one by one, and most are
    /// those of the last export: its first question looks all of them up at once.
    async fn recall(&self, grant: &Grant, store: &dyn Store, digest: &Digest) -> Option<Meta> {
        let scope = grant.scope();
        let name = grant.names()?.first()?;
        let known = self.known.recall(scope, digest);
        if known.is_some() || grant.check(Right::Write).is_err() {
            return known;
        }
        let _alone = self.bulk_lookups.lock(layout::manifest_place(scope, name)).await;
        if self.known.begin_bulk_lookup(scope, name)
            && let Ok(manifest) = self.manifests.read(store, scope, name).await
        {
            let blobs = manifest.config.blobs();
            if blobs.len() <= MAX_BULK {
                // What it finds is remembered. What it does not find is asked for again.
                let _absent = self.known.bulk_lookup(scope, store, &blobs).await;
            }
        }
        self.known.recall(scope, digest)
    }
}
