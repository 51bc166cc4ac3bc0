//! Bulk lookup: which of many blobs are stored?
//!
//! Digests are spread evenly, so one page of a listing tells how dense the blobs are in the bucket, and from that follows
//! how many of the wanted ones the next page would cover. Pages are read where each saves several calls, and the others
//! are looked up one by one: a few layers among millions of blobs cost no listing of the bucket.

use std::collections::{BTreeMap, BTreeSet};

use futures_util::{StreamExt, TryStreamExt, stream};

use super::Known;
use crate::cache::layout;
use crate::store::{self, Store};
use crate::types::{Digest, Key, Scope};

/// Lookups in flight.
const HEADS_AT_ONCE: usize = 64;
/// Listings in flight.
const LISTS_AT_ONCE: usize = 8;
/// A page is read where it saves at least this many lookups.
const WORTH_A_PAGE: f64 = 8.0;
/// While no page has been seen yet, one is tried for at least this many blobs.
const WORTH_A_TRY: usize = 16;
/// Entries of one page: S3's bound.
const PAGE: usize = 1000;

/// The blobs that were asked for and are not there.
#[derive(Debug, Default)]
pub(in crate::cache) struct Absent {
    /// Blobs that are not stored, are corrupt, or have another size than the one that the asker named.
    pub(in crate::cache) missing: BTreeSet<Digest>,
    /// The blobs of which the store said nothing, and why.
    pub(in crate::cache) unknown: Option<(BTreeSet<Digest>, store::Error)>,
}

impl Known {
    /// Looks up which of `wanted` are not stored, given their sizes in bytes (0: any size). A blob that was seen within
    /// [`Settings::lookup_interval`](crate::cache::Settings::lookup_interval) is not asked for again, so builds of a busy
    /// name share one lookup.
    pub(in crate::cache) async fn bulk_lookup(&self, scope: &Scope, store: &dyn Store, wanted: &BTreeMap<Digest, u64>) -> Absent {
        let open: BTreeSet<Digest> = wanted.keys().filter(|digest| self.recall_looked_up(scope, digest).is_none()).copied().collect();
        let mut lookup = BulkLookup { known: self, scope, store, open, missing: BTreeSet::new() };
        let done = lookup.ask().await;
        let BulkLookup { open, mut missing, .. } = lookup;
        let right_size = |digest: &Digest, size: u64| size == 0 || self.recall(scope, digest).is_none_or(|meta| meta.size == size);
        missing.extend(wanted.iter().filter(|(digest, size)| !right_size(digest, **size)).map(|(digest, _)| *digest));
        Absent { missing, unknown: done.err().map(|fault| (open, fault)) }
    }
}

/// A lookup under way.
struct BulkLookup<'a> {
    known: &'a Known,
    scope: &'a Scope,
    store: &'a dyn Store,
    /// The blobs that the store has said nothing of yet.
    open: BTreeSet<Digest>,
    missing: BTreeSet<Digest>,
}

impl BulkLookup<'_> {
    async fn ask(&mut self) -> store::Result<()> {
        while let Some(pages) = self.pages_worth_reading() {
            self.read_pages(pages).await?;
        }
        self.ask_one_by_one().await
    }

    /// How many pages to read at once; `None` where lookups one by one are fewer calls.
    fn pages_worth_reading(&self) -> Option<usize> {
        let open = self.open.len();
        let first = self.open.first()?;
        let Some(blobs) = self.known.scope_size(self.scope) else { return (open >= WORTH_A_TRY).then_some(1) };
        let share = (count(PAGE) / (blobs * (1.0 - position(first)))).min(1.0);
        let pages = (1..LISTS_AT_ONCE).find(|&pages| count(pages) * share >= 1.0).unwrap_or(LISTS_AT_ONCE);
        (count(open) * share >= WORTH_A_PAGE).then_some(pages)
    }

    /// Reads pages of the listing at once, from open digests on that lie far apart.
    async fn read_pages(&mut self, pages: usize) -> store::Result<()> {
        let step = self.open.len().div_ceil(pages);
        let starts: Vec<Digest> = self.open.iter().step_by(step).copied().collect();
        let store = self.store;
        let prefix = layout::blobs_prefix(self.scope);
        let reads: Vec<_> = starts
            .into_iter()
            .map(|start| {
                let below = format!("{prefix}sha256:");
                let mut after = format!("{prefix}{start}");
                // The listing begins just before the key of the first blob that is wanted.
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
        let mut listed = BTreeSet::new();
        let mut corrupt = BTreeSet::new();
        for (key, meta) in page.entries {
            let Some(digest) = key.strip_prefix(prefix).and_then(|digest| digest.parse().ok()) else { continue };
            listed.insert(digest);
            if !self.known.record_present(self.scope, &digest, meta) {
                corrupt.insert(digest);
            }
        }
        let end = match listed.last() {
            Some(last) if page.more => Some(*last),
            None if page.more => {
                // The page has foreign objects alone, so listings are of no use here.
                self.known.record_scope_size(self.scope, f64::INFINITY);
                return;
            }
            _ => None,
        };
        let told = |digest: &Digest| *digest >= start && end.is_none_or(|end| *digest <= end);
        for digest in self.open.extract_if(.., told) {
            if !listed.contains(&digest) || corrupt.contains(&digest) {
                self.known.record_absent(self.scope, &digest);
                self.missing.insert(digest);
            }
        }
        let span = end.map_or(1.0, |end| position(&end)) - position(&start);
        self.known.record_scope_size(self.scope, count(listed.len()) / span.max(f64::EPSILON));
    }

    async fn ask_one_by_one(&mut self) -> store::Result<()> {
        let (store, scope) = (self.store, self.scope);
        let key = |digest: &Digest| layout::blob_key(scope, digest);
        // Collected first: a lazy iterator of futures that borrow is not `Send`.
        let asked: Vec<_> = self.open.iter().map(|digest| head(store, *digest, key(digest))).collect();
        let mut answers = stream::iter(asked).buffer_unordered(HEADS_AT_ONCE);
        while let Some((digest, answer)) = answers.next().await {
            match answer {
                Ok(meta) if self.known.record_present(scope, &digest, meta.clone()) => {}
                Ok(_) | Err(store::Error::NotFound(_)) => {
                    self.known.record_absent(scope, &digest);
                    self.missing.insert(digest);
                }
                Err(fault) => return Err(fault),
            }
            self.open.remove(&digest);
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
