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
    /// Whether calls are made: closed (they are), half open, open (they fail at once). `None`: always, to a directory.
    pub breaker: Option<String>,
}

/// All that is told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Of remora.
    pub version: String,
    /// Since it started.
    pub uptime_seconds: u64,
    /// Builds that run through the control endpoint.
    pub builds_running: u64,
    /// Those that it serves.
    pub stores: Vec<StoreStatus>,
    /// What waits.
    #[serde(flatten)]
    pub cache: CacheStatus,
}

/// Where it comes from. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) cache: Cache,
    pub(super) metrics: Metrics,
    pub(super) started: Instant,
}

impl Source {
    /// As it is now.
    pub(super) fn status(&self) -> Status {
        let stores = self.cache.stores().known().into_iter().map(|store| {
            let url = store.url();
            StoreStatus { breaker: self.metrics.breaker_state(&url).map(|state| state.name().to_owned()), url }
        });
        Status {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_seconds: self.started.elapsed().as_secs(),
            builds_running: self.metrics.builds_running(),
            stores: stores.collect(),
            cache: self.cache.status(),
        }
    }
}
