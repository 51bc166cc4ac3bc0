//! Many blobs at once: which of them are stored?
//!
//! Digests are spread evenly, so one page of a listing tells how dense they are, and that, how many of
//! the wanted ones the next page would cover. Pages are read where each saves several calls, and the rest
//! is looked up one by one: a few layers among millions of blobs cost no listing of the bucket.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::cache::{Cache, layout};
use crate::store::{self, Store};
use crate::types::{Digest, Key, Scope};

/// Lookups in flight.
const HEADS_AT_ONCE: usize = 64;
/// Listings in flight.
const LISTS_AT_ONCE: usize = 8;
/// A page is read where it answers at least so many lookups.
const WORTH_A_PAGE: f64 = 8.0;
/// Without a page seen yet, one is tried for at least so many.
const WORTH_A_TRY: usize = 16;
/// S3's bound.
const PAGE: usize = 1000;

/// What was asked for and is not there.
#[derive(Debug, Default)]
pub(in crate::cache) struct Absent {
    /// Not stored, corrupt, or with another size than the one that the asker named.
    pub(in crate::cache) missing: BTreeSet<Digest>,
    /// The store did not say, and why.
    pub(in crate::cache) unknown: Option<(BTreeSet<Digest>, store::Error)>,
}

impl Cache {
    /// Which of `wanted` (with their sizes in bytes; 0: any) are not stored. What was seen within
    /// [`Settings::lookup_interval`](crate::cache::Settings::lookup_interval) is not asked for again: builds of a busy name
    /// share one check.
    pub(in crate::cache) async fn absent(&self, scope: &Scope, store: &dyn Store, wanted: &BTreeMap<Digest, u64>) -> Absent {
        let recall = |digest: &Digest| self.0.presence.recall_within(scope, digest, self.0.settings.lookup_interval);
        let open: BTreeSet<Digest> = wanted.keys().filter(|digest| recall(digest).is_none()).copied().collect();
        let mut open = Open { cache: self, scope, store, digests: open, missing: BTreeSet::new() };
        let done = open.ask().await;
        let Open { digests, mut missing, .. } = open;
        let right_size =
            |digest: &Digest, size: u64| size == 0 || self.0.presence.recall(scope, digest).is_none_or(|meta| meta.size == size);
        missing.extend(wanted.iter().filter(|(digest, size)| !right_size(digest, **size)).map(|(digest, _)| *digest));
        Absent { missing, unknown: done.err().map(|fault| (digests, fault)) }
    }
}

/// A check under way.
struct Open<'a> {
    cache: &'a Cache,
    scope: &'a Scope,
    store: &'a dyn Store,
    /// Not known yet.
    digests: BTreeSet<Digest>,
    missing: BTreeSet<Digest>,
}

impl Open<'_> {
    async fn ask(&mut self) -> store::Result<()> {
        while let Some(pages) = self.pages_worth_reading() {
            self.read_pages(pages).await?;
        }
        self.ask_one_by_one().await
    }

    /// How many pages to read at once; `None` where lookups one by one are fewer calls.
    fn pages_worth_reading(&self) -> Option<usize> {
        let (open, first) = (self.digests.len(), self.digests.first()?);
        let Some(blobs) = self.cache.0.presence.size(self.scope) else { return (open >= WORTH_A_TRY).then_some(1) };
        let share = (count(PAGE) / (blobs * (1.0 - position(first)))).min(1.0);
        let pages = (1..LISTS_AT_ONCE).find(|&pages| count(pages) * share >= 1.0).unwrap_or(LISTS_AT_ONCE);
        (count(open) * share >= WORTH_A_PAGE).then_some(pages)
    }

    /// Reads pages of the listing at once, from open digests on that lie far apart.
    async fn read_pages(&mut self, pages: usize) -> store::Result<()> {
        let step = self.digests.len().div_ceil(pages);
        let starts: Vec<Digest> = self.digests.iter().step_by(step).copied().collect();
        let (store, prefix) = (self.store, layout::blobs_prefix(self.scope));
        let reads: Vec<_> = starts
            .into_iter()
            .map(|start| {
                let (below, mut after) = (format!("{prefix}sha256:"), format!("{prefix}{start}"));
                // Just before the key of the first one that is wanted.
                after.pop();
                async move { Ok::<_, store::Error>((start, store.list(&below, Some(&after), PAGE).await?)) }
            })
            .collect();
        let pages: Vec<(Digest, store::Page)> = stream::iter(reads).buffer_unordered(LISTS_AT_ONCE).try_collect().await?;
        for (start, page) in pages {
            self.take(&prefix, start, page);
        }
        Ok(())
    }

    fn take(&mut self, prefix: &str, start: Digest, page: store::Page) {
        let presence = &self.cache.0.presence;
        let (mut listed, mut corrupt): (BTreeSet<Digest>, BTreeSet<Digest>) = Default::default();
        for (key, meta) in page.entries {
            let Some(digest) = key.strip_prefix(prefix).and_then(|digest| digest.parse().ok()) else { continue };
            listed.insert(digest);
            if !self.cache.seen(self.scope, &digest, meta) {
                corrupt.insert(digest);
            }
        }
        let end = match listed.last() {
            Some(last) if page.more => Some(*last),
            None if page.more => {
                // Foreign objects alone: nothing that listings could tell.
                presence.measured(self.scope, f64::INFINITY);
                return;
            }
            _ => None,
        };
        let told = |digest: &Digest| *digest >= start && end.is_none_or(|end| *digest <= end);
        for digest in self.digests.extract_if(.., told) {
            if !listed.contains(&digest) || corrupt.contains(&digest) {
                presence.forget(self.scope, &digest);
                self.missing.insert(digest);
            }
        }
        let span = end.map_or(1.0, |end| position(&end)) - position(&start);
        presence.measured(self.scope, count(listed.len()) / span.max(f64::EPSILON));
    }

    async fn ask_one_by_one(&mut self) -> store::Result<()> {
        let (store, cache, scope) = (self.store, self.cache, self.scope);
        let key = |digest: &Digest| layout::blob_key(scope, digest);
        // Collected first: a lazy iterator of futures that borrow is not `Send`.
        let asked: Vec<_> = self.digests.iter().map(|digest| head(store, *digest, key(digest))).collect();
        let mut answers = stream::iter(asked).buffer_unordered(HEADS_AT_ONCE);
        while let Some((digest, answer)) = answers.next().await {
            match answer {
                Ok(meta) if cache.seen(scope, &digest, meta.clone()) => {}
                Ok(_) | Err(store::Error::NotFound(_)) => {
                    cache.0.presence.forget(scope, &digest);
                    self.missing.insert(digest);
                }
                Err(fault) => return Err(fault),
            }
            self.digests.remove(&digest);
        }
        Ok(())
    }
}

async fn head(store: &dyn Store, digest: Digest, key: Key) -> (Digest, store::Result<store::Meta>) {
    let answer = store.head(&key).await;
    (digest, answer)
}

/// Where a digest lies among all digests, from 0 to 1.
fn position(digest: &Digest) -> f64 {
    let leading = u32::try_from(digest.position() >> 32).unwrap_or(u32::MAX);
    f64::from(leading) / (f64::from(u32::MAX) + 1.0)
}

fn count(count: usize) -> f64 {
    u32::try_from(count).map_or(f64::MAX, f64::from)
}
