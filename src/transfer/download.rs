//! Downloads: one request for a small object, several ranges at once, delivered in order, for a large one.

use std::sync::Arc;

use futures_util::StreamExt as _;

use super::hedge::Hedges;
use super::ranges::range_end;
use super::resume::{self, ObjectVersion};
use super::shares::Shares;
use super::window::Reader;
use crate::metrics::Metrics;
use crate::store::{Error, GuardedStore, Object, Result};
use crate::types::{ByteRange, Key};

/// Reads objects. Cheap to clone; clones share their bounds.
#[derive(Debug, Clone)]
pub struct Downloads {
    shares: Shares,
    hedges: Hedges,
}

impl Downloads {
    /// All reads together buffer at most `memory` bytes. With less than [`RANGE_BYTES`](super::RANGE_BYTES), each read has one request at a
    /// time. Ranges that are requested twice are counted in `metrics`.
    #[must_use]
    pub fn new(memory: u64, metrics: Metrics) -> Self {
        Self { shares: Shares::new(memory), hedges: Hedges::new(metrics) }
    }

    /// Reads an object, or a part of it, as [`Store::get`](crate::store::Store::get) does, but with as many requests at once
    /// as the reader keeps up with. All of them are for the version that the first one found. A request that breaks off is
    /// resumed where it broke, a bounded number of times. A range that is far slower than the others is requested a second
    /// time while the reader waits for it. Dropping the body ends every request.
    ///
    /// # Errors
    /// Those of [`Store::get`](crate::store::Store::get). The body ends in [`Error::Precondition`] where the object was
    /// replaced meanwhile, or in the error that broke off the last attempt.
    pub async fn get(&self, store: &Arc<dyn GuardedStore>, key: &Key, range: Option<ByteRange>) -> Result<Object> {
        if !store.prefers_multipart() {
            return store.get(key, range, None).await;
        }
        let start = range.map_or(0, ByteRange::start);
        let first_end = range_end(start);
        let first = ByteRange::new(start, range.map_or(first_end, |range| range.end().min(first_end)));
        let first = match store.get(key, first, None).await {
            // An empty object has no ranges.
            Err(Error::Invalid(_)) if range.is_none() => return store.get(key, None, None).await,
            answer => answer?,
        };
        let Some(begun) = first.range else { return Ok(first) };
        let size = first.meta.size;
        let end = range.map_or(size, |range| range.end().min(size));
        let source = Arc::new(ObjectVersion { store: Arc::clone(store), key: key.clone(), version: first.meta.etag.clone() });
        let head = resume::read(Arc::clone(&source), begun, Some(first.body));
        let body =
            if begun.end() < end { Reader::open(source, begun, head, end, self.shares.clone(), self.hedges.clone()).boxed() } else { head };
        Ok(Object { meta: first.meta, range: ByteRange::new(start, end), body })
    }

    /// Reads an object with one request at a time and without buffering, for a reader that can wait. A request that breaks
    /// off is resumed.
    ///
    /// # Errors
    /// As [`Downloads::get`].
    pub async fn get_sequential(&self, store: &Arc<dyn GuardedStore>, key: &Key) -> Result<Object> {
        let Object { meta, range, body } = store.get(key, None, None).await?;
        let source = Arc::new(ObjectVersion { store: Arc::clone(store), key: key.clone(), version: meta.etag.clone() });
        let body = match range {
            Some(range) => resume::read(source, range, Some(body)),
            None => body,
        };
        Ok(Object { meta, range, body })
    }
}
