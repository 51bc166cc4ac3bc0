//! Opens the disk cache, and makes room in it while others fill the disk.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::spawn_blocking;

use super::{Disk, DiskSettings};
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;

/// Time between two looks at how much of the disk is free; each fill looks by itself.
const WATCH: Duration = Duration::from_secs(60);

/// Opens the disk cache and watches over it in the background. `None`: the disk cannot be used, and remora goes on
/// without a disk cache.
pub(in crate::cache) async fn open(settings: DiskSettings, metrics: &Metrics, shutdown: &Shutdown) -> Option<Arc<Disk>> {
    let dir = settings.dir.clone();
    let counting = metrics.clone();
    let opened = spawn_blocking(move || Disk::open(settings, counting)).await.map_err(io::Error::other).flatten();
    match opened {
        Ok(disk) => {
            let disk = Arc::new(disk);
            shutdown.spawn(watch(Arc::clone(&disk), shutdown.clone()));
            Some(disk)
        }
        Err(error) => {
            metrics.disk().failed();
            tracing::error!(%error, "disk_cache.dir: {} cannot be used, so there is no disk cache: {error}", dir.display());
            None
        }
    }
}

/// Makes room where others fill the disk, until the process begins to end.
async fn watch(disk: Arc<Disk>, shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = shutdown.closing() => break,
            () = tokio::time::sleep(WATCH) => {}
        }
        let trimmed = Arc::clone(&disk);
        // It logs what goes wrong.
        let _ = spawn_blocking(move || trimmed.trim()).await;
    }
    disk.close();
}
