//! One range of one version of an object, read to its end in spite of faults.
//!
//! The store retries a request until its answer begins. A body that breaks off midway is resumed here.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;

use crate::store::{Backoff, ByteStream, Error, GuardedStore, Result};
use crate::types::{ByteRange, ETag, Key};

/// How often one range is resumed. The store retries each request by itself.
const RESUMES: u32 = 6;
/// Pauses before a range is resumed: the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How long to wait for the next byte in all. The reader has decided to use these bytes, and gains nothing if this gives up
/// sooner.
const MAX_OUTAGE: Duration = Duration::from_secs(60);

/// One version of one object in a store.
#[derive(Debug)]
pub(super) struct ObjectVersion {
    pub(super) store: Arc<dyn GuardedStore>,
    pub(super) key: Key,
    pub(super) version: ETag,
}

/// Exactly the bytes of `range`, or an error. `begun` is a stream of these bytes, where there is one already.
pub(super) fn read(source: Arc<ObjectVersion>, range: ByteRange, begun: Option<ByteStream>) -> ByteStream {
    let backoff = Backoff::new(PAUSES.0, PAUSES.1);
    let reading = Reading { source, at: range.start(), end: range.end(), body: begun, resumes: 0, backoff, stuck: None };
    stream::try_unfold(reading, |mut reading| async move {
        loop {
            let Some(unread) = ByteRange::new(reading.at, reading.end) else { return Ok(None) };
            let failure = match reading.body.as_mut() {
                None => match reading.source.open(unread).await {
                    Ok(body) => {
                        reading.body = Some(body);
                        continue;
                    }
                    Err(failure) => failure,
                },
                Some(body) => match body.next().await {
                    Some(Ok(chunk)) => {
                        reading.at += chunk.len() as u64;
                        reading.stuck = None;
                        return Ok(Some((chunk, reading)));
                    }
                    Some(Err(failure)) => failure,
                    None => Error::Unavailable(format!("reading {} ended {} bytes early", reading.source.key, unread.len())),
                },
            };
            reading.body = None;
            reading.recover(failure).await?;
        }
    })
    .boxed()
}

struct Reading {
    source: Arc<ObjectVersion>,
    /// The first byte that is still to come.
    at: u64,
    end: u64,
    body: Option<ByteStream>,
    resumes: u32,
    backoff: Backoff,
    /// Since when no byte has arrived.
    stuck: Option<Instant>,
}

impl Reading {
    /// Waits until it is time to try again, or gives up.
    async fn recover(&mut self, failure: Error) -> Result<()> {
        let is_transient = matches!(failure, Error::Unavailable(_) | Error::Exhausted(_));
        let deadline = *self.stuck.get_or_insert_with(Instant::now) + MAX_OUTAGE;
        if !is_transient || self.resumes == RESUMES || Instant::now() >= deadline {
            return Err(failure);
        }
        let pause = self.backoff.pause();
        self.resumes += 1;
        let key = self.source.key.as_str();
        let attempt = self.resumes;
        tracing::debug!(object.key = key, offset = self.at, attempt, ?pause, error = %failure, "a read broke off; it goes on there");
        tokio::time::sleep(pause).await;
        tokio::time::timeout_at(deadline, self.source.store.wait_until_available()).await.map_err(|_| failure)
    }
}

impl ObjectVersion {
    /// Requests `range` of exactly this version, once.
    pub(super) async fn open(&self, range: ByteRange) -> Result<ByteStream> {
        let object = self.store.get(&self.key, Some(range), Some(&self.version)).await?;
        // Some stores ignore If-Match.
        if object.meta.etag != self.version || object.range != Some(range) {
            return Err(Error::Precondition(self.key.to_string()));
        }
        Ok(object.body)
    }
}
