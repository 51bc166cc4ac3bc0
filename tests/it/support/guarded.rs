//! Stores as remora serves them.

use std::sync::Arc;

use remora::metrics::Metrics;
use remora::shutdown::Shutdown;
use remora::store::{Guarded, Policy, RemoteStore};

/// `store` behind a guard with the default policy.
pub(crate) fn guarded(store: impl RemoteStore) -> Guarded {
    let metrics = Metrics::default().store(store.url());
    Guarded::new(Arc::new(store), Policy::default(), metrics, Shutdown::default())
}
