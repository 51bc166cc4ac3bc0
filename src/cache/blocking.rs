//! Work that blocks: reading, writing and hashing files.

use super::{Error, Result};

/// Runs `work` on a thread of its own, where it holds up no worker of the runtime.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    tokio::task::spawn_blocking(work).await.map_err(|error| Error::Internal(error.to_string()))?
}
