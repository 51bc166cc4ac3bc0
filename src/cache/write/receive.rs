//! Bodies on their way in: in memory where there is room for them, else in the spool.

use std::cmp::Ordering;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt as _};

use super::spool::{SpoolFile, spool_full};
use crate::cache::{Cache, Error, Result};
use crate::store::Body;
use crate::transfer::{Hold, Payload, SINGLE_PUT_BYTES};
use crate::types::Digest;

/// How long a body waits for memory. Meanwhile its client waits too; after that the spool takes it.
const PATIENCE: Duration = Duration::from_secs(5);
/// The same of what others in memory wait for: theirs is not free before it has come.
const IN_TURN_PATIENCE: Duration = Duration::from_millis(200);

impl Cache {
    /// Takes the next `size` bytes of `body`, and shows each piece of them to `look`. When `turn` ends, nothing
    /// else has to come before them.
    ///
    /// # Errors
    /// [`Error::Precondition`] where fewer or more arrive, [`Error::Exhausted`] with the spool full.
    pub(in crate::cache) async fn receive(
        &self,
        what: &str,
        size: u64,
        body: &mut (impl Stream<Item = Result<Bytes>> + Send + Unpin),
        turn: impl Future<Output = ()> + Send,
        look: impl FnMut(&[u8]) + Send,
    ) -> Result<Payload> {
        if size <= SINGLE_PUT_BYTES
            && let Some(hold) = self.memory_for(size, turn).await
        {
            let memory = BytesMut::with_capacity(usize::try_from(size).unwrap_or_default());
            return Place::Memory(memory).take(what, size, body, hold, look).await;
        }
        let Some(hold) = self.0.spool_budget.try_hold(size) else {
            return Err(spool_full(what, self.0.settings.max_spool_bytes));
        };
        Place::Spool(SpoolFile::create(&self.0.settings.spool_dir).await?).take(what, size, body, hold, look).await
    }

    async fn memory_for(&self, size: u64, turn: impl Future<Output = ()> + Send) -> Option<Hold> {
        let had_its_turn = async {
            turn.await;
            tokio::time::sleep(IN_TURN_PATIENCE).await;
        };
        tokio::select! {
            biased;
            hold = self.0.transfers.memory().hold(size, PATIENCE) => hold,
            () = had_its_turn => None,
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
        while let Some(piece) = body.next().await {
            let piece = piece?;
            len += piece.len() as u64;
            if len > size {
                return Err(too_many(what, size));
            }
            look(&piece);
            match &mut self {
                Self::Memory(bytes) => bytes.extend_from_slice(&piece),
                Self::Spool(file) => file.write(&piece).await?,
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

/// Both.
pub(in crate::cache) fn check_content(digest: &Digest, size: u64, actual: &Digest, len: u64) -> Result<()> {
    check_size(&format!("blob {digest}"), size, len)?;
    check_digest(digest, actual)
}
