//! What a remora is doing, for `remora status`.

use std::time::Instant;

use serde::{Deserialize, Serialize};

use crate::cache::{Cache, CacheStatus};
use crate::metrics::Metrics;

/// One store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreStatus {
    /// Where it is.
    pub url: String,
    /// The state of the breaker: closed (calls are made), half open, open (calls fail at once). `None` for a directory, to
    /// which calls are always made.
    pub breaker: Option<String>,
}

/// The whole status.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The version of remora.
    pub version: String,
    /// How long ago it started.
    pub uptime_seconds: u64,
    /// Builds that are running through the control endpoint.
    pub builds_running: u64,
    /// The stores that it serves.
    pub stores: Vec<StoreStatus>,
    /// What is waiting in the cache.
    #[serde(flatten)]
    pub cache: CacheStatus,
}

/// Where the status comes from. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct StatusSource {
    pub(super) cache: Cache,
    pub(super) metrics: Metrics,
    pub(super) started: Instant,
}

impl StatusSource {
    /// The current status.
    pub(super) fn status(&self) -> Status {
        let stores = self.cache.stores().known().into_iter().map(|store| {
            let url = store.url();
            StoreStatus { breaker: self.metrics.breaker_state(&url).map(|state| state.name().to_owned()), url }
        });
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            builds_running: self.metrics.builds().running(),
            stores: stores.collect(),
            cache: self.cache.status(),
        }
    }
}
