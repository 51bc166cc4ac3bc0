//! One range of one version of an object, to its end in spite of faults.
//!
//! The store makes a request again until its answer begins; a body that breaks off midway is for its
//! reader to take up again.

use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::time::Instant;

use crate::store::{Backoff, ByteStream, Error, GuardedStore, Result};
use crate::types::{ByteRange, ETag, Key};

/// How often one range is taken up again. The store tries each request some times by itself.
const RESUMES: u32 = 6;
/// Pauses before that, the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(2));
/// How long the next byte is waited for in all: who reads has decided to use these bytes, and gains
/// nothing by giving up sooner.
const MAX_OUTAGE: Duration = Duration::from_secs(60);

/// What is read.
#[derive(Debug)]
pub(super) struct Source {
    pub(super) store: Arc<dyn GuardedStore>,
    pub(super) key: Key,
    pub(super) version: ETag,
}

/// The bytes of `range`, exactly, or an error; `begun` is their stream where there is one already.
pub(super) fn read(source: Arc<Source>, range: ByteRange, begun: Option<ByteStream>) -> ByteStream {
    let backoff = Backoff::new(PAUSES.0, PAUSES.1);
    let reading = Reading { source, at: range.start(), end: range.end(), body: begun, resumes: 0, backoff, stuck: None };
    stream::try_unfold(reading, |mut reading| async move {
        loop {
            let Some(rest) = ByteRange::new(reading.at, reading.end) else { return Ok(None) };
            let failure = match reading.body.as_mut() {
                None => match reading.source.open(rest).await {
                    Ok(body) => {
                        reading.body = Some(body);
                        continue;
                    }
                    Err(failure) => failure,
                },
                Some(body) => match body.next().await {
                    Some(Ok(piece)) => {
                        reading.at += piece.len() as u64;
                        reading.stuck = None;
                        return Ok(Some((piece, reading)));
                    }
                    Some(Err(failure)) => failure,
                    None => Error::Unavailable(format!("reading {} ended {} bytes early", reading.source.key, rest.len())),
                },
            };
            reading.body = None;
            reading.recover(failure).await?;
        }
    })
    .boxed()
}

struct Reading {
    source: Arc<Source>,
    /// The first byte that is still to come.
    at: u64,
    end: u64,
    body: Option<ByteStream>,
    resumes: u32,
    backoff: Backoff,
    /// Since when no byte has come.
    stuck: Option<Instant>,
}

impl Reading {
    /// Waits until it is time to try again, or gives up.
    async fn recover(&mut self, failure: Error) -> Result<()> {
        let passing = matches!(failure, Error::Unavailable(_) | Error::Exhausted(_));
        let deadline = *self.stuck.get_or_insert_with(Instant::now) + MAX_OUTAGE;
        if !passing || self.resumes == RESUMES || Instant::now() >= deadline {
            return Err(failure);
        }
        let pause = self.backoff.pause();
        self.resumes += 1;
        let (key, attempt) = (self.source.key.as_str(), self.resumes);
        tracing::debug!(object.key = key, offset = self.at, attempt, ?pause, error = %failure, "a read broke off; it goes on there");
        tokio::time::sleep(pause).await;
        tokio::time::timeout_at(deadline, self.source.store.wait_until_available()).await.map_err(|_| failure)
    }
}

impl Source {
    /// Asks for `range` of this very version, once.
    pub(super) async fn open(&self, range: ByteRange) -> Result<ByteStream> {
        let object = self.store.get(&self.key, Some(range), Some(&self.version)).await?;
        // For stores that know no If-Match.
        if object.meta.etag != self.version || object.range != Some(range) {
            return Err(Error::Precondition(self.key.to_string()));
        }
        Ok(object.body)
    }
}
