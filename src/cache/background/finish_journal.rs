//! Finishes the journal: its blobs go to the store, and after them the manifests that name them.

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::time::Instant;

use crate::cache::blocking::blocking;
use crate::cache::journal::{Journal, JournalEntry};
use crate::cache::layout::Item;
use crate::cache::manifests::Manifests;
use crate::cache::write::Writes;
use crate::cache::{Error, Result};
use crate::shutdown::Shutdown;
use crate::store::Body;
use crate::transfer::Payload;
use crate::types::{Digest, Grant, Hasher, ManifestName, Rights, Sums};

/// Entries that go to the store at once. Of a large blob, several parts go at once.
const AT_ONCE: usize = 4;
/// Time between two looks at entries that wait for another try.
const LOOK: Duration = Duration::from_secs(1);
/// Time between two lines in the log that say how much is left.
const REPORT: Duration = Duration::from_secs(30);

/// Finishes the entries of the journal.
#[derive(Debug)]
pub(super) struct JournalFinish<'a> {
    pub(super) journal: &'a Journal,
    pub(super) writes: &'a Writes,
    pub(super) manifests: &'a Manifests,
}

impl JournalFinish<'_> {
    /// Finishes entries until the process begins to end. The next start goes on.
    pub(super) async fn run(&self, shutdown: &Shutdown) {
        let journal = self.journal;
        let mut running = FuturesUnordered::new();
        let mut reported = Instant::now();
        loop {
            while running.len() < AT_ONCE
                && let Some((id, entry)) = journal.next()
            {
                running.push(self.finish(id, entry));
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

    async fn finish(&self, id: u64, entry: Arc<JournalEntry>) {
        let journal = self.journal;
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
            // It would be refused again and again.
            Err(Error::Denied(why)) => {
                tracing::error!("{} of {} was acknowledged and cannot be stored: {why}", entry.item, entry.scope);
                journal.remove(id).await;
            }
            Err(error) => journal.failed(id, &error),
        }
    }

    /// Stores a blob. `false`: its bytes are damaged.
    async fn finish_blob(&self, grant: &Grant, digest: &Digest, body: Body) -> Result<bool> {
        // A blob that is stored and old is made young, as for any export.
        match self.writes.find_to_reuse(grant, digest).await {
            Ok(found) if found.size == body.len() => return Ok(true),
            Ok(_) | Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        let Some(sums) = sums(body.clone()).await?.filter(|sums| sums.digest == *digest) else { return Ok(false) };
        self.writes.store(grant, &sums, &body.into()).await.map(|_| true)
    }

    /// Publishes a manifest. `false`: its bytes are damaged.
    async fn finish_manifest(&self, grant: &Grant, name: &ManifestName, digest: &Digest, body: Body) -> Result<bool> {
        if sums(body.clone()).await?.is_none_or(|sums| sums.digest != *digest) {
            return Ok(false);
        }
        let Body::File { path, .. } = body else { return Ok(false) };
        let document = blocking(move || Ok(std::fs::read(path)?)).await?;
        self.manifests.publish_acknowledged(grant, name, document.into()).await.map(|_| true)
    }
}

/// The sums of an entry's bytes. `None`: some are gone.
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
    let entries = status.entries;
    let mib = status.bytes.div_ceil(1 << 20);
    tracing::info!(
        journal.entries = entries,
        journal.bytes = status.bytes,
        "the journal has {entries} entries ({mib} MiB) to finish{error}"
    );
}
