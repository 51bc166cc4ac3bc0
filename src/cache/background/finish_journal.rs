//! Works the journal off: blobs, and behind them the manifests that name them.

use std::io::ErrorKind;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::cache::blocking::blocking;
use crate::cache::journal::{Entry, Journal};
use crate::cache::layout::Item;
use crate::cache::{Cache, Error, Result};
use crate::shutdown::Shutdown;
use crate::store::Body;
use crate::transfer::Payload;
use crate::types::{Digest, Grant, Hasher, ManifestName, Rights, Sums};

/// Entries on their way to the store at once; a large blob's parts go several at once.
const AT_ONCE: usize = 4;
/// Between two looks at entries that wait for another try.
const LOOK: Duration = Duration::from_secs(1);
/// Between two lines in the log on how much is left.
const REPORT: Duration = Duration::from_secs(30);

impl Cache {
    /// Finishes what exports left in the journal, until the process begins to end; the next start goes on.
    pub async fn finish_journal(self, shutdown: Shutdown) {
        let Some(journal) = &self.0.journal else { return };
        let (mut running, mut reported) = (FuturesUnordered::new(), Instant::now());
        loop {
            while running.len() < AT_ONCE
                && let Some((id, entry)) = journal.next()
            {
                running.push(self.finish(journal, id, entry));
            }
            let is_empty = journal.is_empty();
            if is_empty {
                reported = Instant::now();
            } else if reported.elapsed() >= REPORT {
                reported = Instant::now();
                report(journal);
            }
            tokio::select! {
                () = shutdown.closing() => return,
                Some(()) = running.next() => {}
                () = journal.added() => {}
                () = tokio::time::sleep(LOOK), if !is_empty => {}
            }
        }
    }

    async fn finish(&self, journal: &Journal, id: u64, entry: std::sync::Arc<Entry>) {
        let grant = Grant::builder(entry.scope.clone(), Rights::EXPORT).build();
        let body = journal.body(id, &entry);
        let finished = match &entry.item {
            Item::Blob(digest) => self.finish_blob(&grant, digest, body).await,
            Item::Manifest(name) => self.finish_manifest(&grant, name, &entry.digest, body).await,
        };
        match finished {
            Ok(true) => journal.remove(id).await,
            Ok(false) => {
                tracing::error!(
                    "{} of {} was acknowledged and is lost: its bytes in the journal are damaged. What needs it is not published",
                    entry.item,
                    entry.scope
                );
                journal.remove(id).await;
            }
            Err(error) => journal.failed(id, &error),
        }
    }

    /// Stores a blob; `false`: it is not what it was.
    async fn finish_blob(&self, grant: &Grant, digest: &Digest, body: Body) -> Result<bool> {
        // One that is there and old is made young, as for any export.
        match self.find_to_reuse(grant, digest).await {
            Ok(found) if found.size == body.len() => return Ok(true),
            Ok(_) | Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        let Some(sums) = sums(body.clone()).await?.filter(|sums| sums.digest == *digest) else { return Ok(false) };
        self.store_blob(grant, &sums, &body.into()).await.map(|_| true)
    }

    /// Publishes a manifest, the same.
    async fn finish_manifest(&self, grant: &Grant, name: &ManifestName, digest: &Digest, body: Body) -> Result<bool> {
        if sums(body.clone()).await?.is_none_or(|sums| sums.digest != *digest) {
            return Ok(false);
        }
        let Body::File { path, .. } = body else { return Ok(false) };
        let document = blocking(move || Ok(std::fs::read(path)?)).await?;
        self.publish_promised(grant, name, document.into()).await.map(|_| true)
    }
}

/// The sums of an entry's bytes; `None`: some are gone.
async fn sums(body: Body) -> Result<Option<Sums>> {
    blocking(move || {
        let mut hasher = Hasher::default();
        match Payload::from(body).read(|bytes| hasher.update(bytes)) {
            Ok(()) => Ok(Some(hasher.finish())),
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::UnexpectedEof) => Ok(None),
            Err(error) => Err(error.into()),
        }
    })
    .await
}

fn report(journal: &Journal) {
    let status = journal.status();
    let error = status.last_error.map(|error| format!("; the last error: {error}")).unwrap_or_default();
    let (entries, mib) = (status.entries, status.bytes.div_ceil(1 << 20));
    tracing::info!(
        journal.entries = entries,
        journal.bytes = status.bytes,
        "the journal has {entries} entries ({mib} MiB) to finish{error}"
    );
}
