//! Bodies on their way in: in memory where there is room for them, else in the spool.

use std::cmp::Ordering;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};

use super::spool::{SpoolFile, spool_full};
use crate::cache::{Error, Result};
use crate::store::Body;
use crate::transfer::{Budget, Hold, Payload, SINGLE_PUT_BYTES};
use crate::types::Digest;

/// How long a body waits for memory. Meanwhile its client waits, too; after that the spool takes the body.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long a body waits for memory once its predecessors are done. Others in memory wait for this body, and their memory
/// is not free before it has come.
const PATIENCE_OF_NEXT: Duration = Duration::from_millis(200);

/// Takes bodies, within bounds on memory and on the spool. Cheap to clone; clones are one and the same.
#[derive(Debug, Clone)]
pub(in crate::cache) struct Intake {
    memory: Budget,
    spool_dir: Arc<Path>,
    spool: Budget,
    max_spool_bytes: u64,
}

impl Intake {
    /// Takes bodies into `memory`, and into files in `spool_dir` that have room in `spool`, a budget of `max_spool_bytes`.
    pub(in crate::cache) fn new(memory: Budget, spool_dir: &Path, spool: Budget, max_spool_bytes: u64) -> Self {
        Self { memory, spool_dir: spool_dir.into(), spool, max_spool_bytes }
    }

    /// Where bytes wait until they are whole and verified.
    pub(in crate::cache) fn spool_dir(&self) -> &Path {
        &self.spool_dir
    }

    /// The bytes that may wait there.
    pub(in crate::cache) fn spool(&self) -> &Budget {
        &self.spool
    }

    /// Takes the next `size` bytes of `body`, and shows each chunk of them to `look`. `predecessors` ends when nothing else
    /// has to come before them.
    ///
    /// # Errors
    /// [`Error::Precondition`] where fewer or more arrive, [`Error::Exhausted`] with the spool full.
    pub(in crate::cache) async fn receive(
        &self,
        what: &str,
        size: u64,
        body: &mut (impl Stream<Item = Result<Bytes>> + Send + Unpin),
        predecessors: impl Future<Output = ()> + Send,
        look: impl FnMut(&[u8]) + Send,
    ) -> Result<Payload> {
        if size <= SINGLE_PUT_BYTES
            && let Some(hold) = self.memory_for(size, predecessors).await
        {
            let memory = BytesMut::with_capacity(usize::try_from(size).unwrap_or_default());
            return Place::Memory(memory).take(what, size, body, hold, look).await;
        }
        let Some(hold) = self.spool.try_hold(size) else {
            return Err(spool_full(what, self.max_spool_bytes));
        };
        Place::Spool(SpoolFile::create(&self.spool_dir).await?).take(what, size, body, hold, look).await
    }

    async fn memory_for(&self, size: u64, predecessors: impl Future<Output = ()> + Send) -> Option<Hold> {
        let is_next_for_long = async {
            predecessors.await;
            tokio::time::sleep(PATIENCE_OF_NEXT).await;
        };
        tokio::select! {
            biased;
            hold = self.memory.hold(size, PATIENCE) => hold,
            () = is_next_for_long => None,
        }
    }
}

/// Where a body goes.
enum Place {
    Memory(BytesMut),
    Spool(SpoolFile),
}

impl Place {
    async fn take(
        mut self,
        what: &str,
        size: u64,
        body: &mut (impl Stream<Item = Result<Bytes>> + Send + Unpin),
        hold: Hold,
        mut look: impl FnMut(&[u8]),
    ) -> Result<Payload> {
        let mut len = 0;
        while let Some(chunk) = body.next().await {
            let chunk = chunk?;
            len += chunk.len() as u64;
            if len > size {
                return Err(too_many(what, size));
            }
            look(&chunk);
            match &mut self {
                Self::Memory(bytes) => bytes.extend_from_slice(&chunk),
                Self::Spool(file) => file.write(&chunk).await?,
            }
        }
        check_size(what, size, len)?;
        Ok(match self {
            Self::Memory(bytes) => Payload::new(Body::Bytes(bytes.freeze()), hold),
            Self::Spool(file) => {
                let finished = file.finish().await?;
                Payload::new(finished.body(), (finished, hold))
            }
        })
    }
}

/// The error of `what` where more arrives than was announced.
pub(in crate::cache) fn too_many(what: &str, size: u64) -> Error {
    Error::Precondition(format!("{what}: more than the announced {size} bytes arrived"))
}

/// Whether as many bytes arrived as were announced.
fn check_size(what: &str, size: u64, len: u64) -> Result<()> {
    match len.cmp(&size) {
        Ordering::Equal => Ok(()),
        Ordering::Greater => Err(too_many(what, size)),
        Ordering::Less => Err(Error::Precondition(format!("{what}: {len} of the announced {size} bytes arrived"))),
    }
}

/// Whether what arrived is the blob that was announced.
pub(in crate::cache) fn check_digest(digest: &Digest, actual: &Digest) -> Result<()> {
    if actual == digest {
        Ok(())
    } else {
        Err(Error::Precondition(format!("blob {digest}: the bytes that arrived have the digest {actual}")))
    }
}

/// Whether what arrived has the size and the digest that were announced.
pub(in crate::cache) fn check_content(digest: &Digest, size: u64, actual: &Digest, len: u64) -> Result<()> {
    check_size(&format!("blob {digest}"), size, len)?;
    check_digest(digest, actual)
}
