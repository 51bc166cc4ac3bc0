//! What every call of this endpoint begins and ends with: its grant, and its place in the metrics.

use tonic::{Request, Status};

use super::kept_read::{KeptRead, Stop};
use super::scope;
use super::status;
use crate::cache::{self, Cache, KeptReads};
use crate::metrics::{Class, Endpoint, Kind, Metrics};
use crate::types::{Digest, Grant};

/// What both services share. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Calls {
    cache: Cache,
    metrics: Metrics,
    /// Reads that stopped before their blob did, of all callers or of one session's, by the place where they stopped.
    kept: KeptReads<Stop, KeptRead>,
}

/// One call under way; counted when it is dropped.
///
/// A stream that its client leaves early counts as done: containerd's reader cancels every Read when it has
/// the bytes that it wanted.
#[derive(Debug)]
pub(super) struct Call {
    metrics: Metrics,
    operation: &'static str,
    class: Class,
}

impl Calls {
    pub(super) fn new(cache: Cache, metrics: Metrics) -> Self {
        Self { kept: cache.kept_reads(), cache, metrics }
    }

    /// For a session, which has kept reads of its own.
    pub(super) fn for_session(&self) -> Self {
        Self { kept: self.cache.kept_reads(), ..self.clone() }
    }

    pub(super) fn cache(&self) -> &Cache {
        &self.cache
    }

    pub(super) fn kept(&self) -> &KeptReads<Stop, KeptRead> {
        &self.kept
    }

    pub(super) fn begin(&self, operation: &'static str) -> Call {
        Call { metrics: self.metrics.clone(), operation, class: Class::Ok }
    }

    /// The grant that came with the call (a build's session has one of its own), or that of the scope
    /// that the call's metadata names.
    pub(super) fn grant<T>(&self, request: &Request<T>) -> Result<Grant, Status> {
        match request.extensions().get::<Grant>() {
            Some(grant) => Ok(grant.clone()),
            None => scope::grant(self.cache.stores(), request.metadata()),
        }
    }
}

impl Call {
    /// Ends the call with what it came to.
    pub(super) fn end<T>(mut self, result: Result<T, Status>) -> Result<T, Status> {
        if let Err(status) = &result {
            self.failed(status);
        }
        result
    }

    /// The call's stream ends with this.
    pub(super) fn failed(&mut self, status: &Status) {
        self.class = status::class(status.code());
        status::log(self.operation, status);
    }

    pub(super) fn lookup<T>(&self, kind: Kind, result: &Result<T, cache::Error>) {
        match result {
            Ok(_) => self.metrics.lookup(Endpoint::Content, kind, true),
            Err(cache::Error::NotFound(_)) => self.metrics.lookup(Endpoint::Content, kind, false),
            Err(_) => {}
        }
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.metrics.sent(Endpoint::Content, bytes as u64);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.metrics.received(Endpoint::Content, bytes as u64);
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        self.metrics.request(Endpoint::Content, self.operation, self.class);
    }
}

/// A digest as a message carries it.
pub(super) fn parse_digest(text: &str) -> Result<Digest, Status> {
    text.parse().map_err(|invalid: crate::types::Invalid| Status::invalid_argument(invalid.to_string()))
}

/// A time as a message carries it.
pub(super) fn timestamp(time: time::OffsetDateTime) -> prost_types::Timestamp {
    prost_types::Timestamp { seconds: time.unix_timestamp(), nanos: i32::try_from(time.nanosecond()).unwrap_or_default() }
}

/// A count of bytes as a message carries it.
pub(super) fn bytes(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
