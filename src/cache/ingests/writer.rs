//! The writer of an ingest, and what becomes of its bytes.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::task::JoinHandle;

use super::IngestStatus;
use super::early_parts::Ahead;
use super::registry::Name;
use super::streamed::Streamed;
use super::writing::Writing;
use crate::cache::blocking::blocking;
use crate::cache::labels::check_labels;
use crate::cache::write::receive::check_content;
use crate::cache::{Cache, Error, Result, outage};
use crate::types::{Digest, Grant, Sums};

/// The one writer of an ingest. The ingest is free for another one when this is dropped, or a moment later
/// where a write still goes on; what was written stays.
#[derive(Debug)]
pub struct Ingest {
    cache: Cache,
    grant: Grant,
    name: Name,
    /// `None` while a call is under way, and for good after one that was cut off.
    writing: Option<Writing>,
    /// A write that was not waited for.
    behind: Option<Behind>,
    /// What goes into the store while more arrives.
    ahead: Ahead,
    /// The bytes of a build's large blob, none of which are in the spool's file then.
    streamed: Option<Streamed>,
}

/// A write that goes on after its call has returned.
#[derive(Debug)]
struct Behind {
    done: JoinHandle<(Writing, Result<()>)>,
    /// What will be when it is done.
    status: IngestStatus,
}

impl Ingest {
    pub(super) fn new(cache: Cache, grant: Grant, name: Name, writing: Writing) -> Self {
        Self { cache, grant, name, writing: Some(writing), behind: None, ahead: Ahead::default(), streamed: None }
    }

    /// How far it is.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it was aborted meanwhile.
    pub fn status(&self) -> Result<IngestStatus> {
        match &self.behind {
            Some(behind) => Ok(behind.status.clone()),
            None => self.writing()?.lock.update(|_| ()),
        }
    }

    /// The digest of what was received so far; `None` while the last of it is being written.
    ///
    /// # Errors
    /// [`Error::Internal`] after a call that was cut off.
    pub fn digest(&self) -> Result<Option<Digest>> {
        let is_known = self.behind.is_none() && self.streamed.is_none();
        Ok(if is_known { Some(self.writing()?.sums().digest) } else { None })
    }

    /// Appends. `offset` must be where the ingest is. The bytes are in the spool when this returns; those of
    /// a build's session, which no other writer takes up again, when the next call does, and that one has
    /// the errors. They are thrown away where the export that they belong to is dropped.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] for another offset, [`Error::Exhausted`] with the disk full,
    /// [`Error::NotFound`] where it was aborted meanwhile.
    pub async fn write(&mut self, offset: u64, data: Bytes) -> Result<()> {
        self.settle().await?;
        let status = self.status()?;
        if offset != status.offset {
            return Err(Error::OutOfRange(format!("write at {offset}; ingest {} is at {}", self.name.reference, status.offset)));
        }
        if data.is_empty() {
            return Ok(());
        }
        if self.grant.documents().is_some() {
            // What begins so may be a document of the session: those stay here.
            if let Some(digest) = status.expected.filter(|_| offset == 0 && !data.starts_with(b"{"))
                && !self.cache.journal(&self.grant).is_some_and(|journal| journal.has_room(status.total))
            {
                self.streamed = self.cache.begin_streamed(&self.grant, &digest, status.total)?;
            }
            return if self.streamed.is_some() { self.stream(data).await } else { self.write_behind(data) };
        }
        let grant = self.grant.clone();
        self.run(move |writing| take(&grant, writing, &data)).await?;
        self.send_ahead()
    }

    /// Hands the bytes on, or throws them away where the export that they belong to is dropped.
    async fn stream(&mut self, data: Bytes) -> Result<()> {
        let (grant, end) = (self.grant.clone(), self.status()?.offset + data.len() as u64);
        if let Some(streamed) = &mut self.streamed {
            outage::unless_dropped(&grant, streamed.write(data)).await?;
        }
        self.writing()?.lock.update(|status| (status.offset, status.updated) = (end, OffsetDateTime::now_utc()))?;
        Ok(())
    }

    /// Begins to append. The client sends its next message meanwhile.
    fn write_behind(&mut self, data: Bytes) -> Result<()> {
        let status = self.status()?;
        let status = IngestStatus { offset: status.offset + data.len() as u64, updated: OffsetDateTime::now_utc(), ..status };
        let (grant, mut writing) = (self.grant.clone(), self.writing.take().ok_or_else(cut_off)?);
        let done = tokio::task::spawn_blocking(move || {
            let done = take(&grant, &mut writing, &data);
            (writing, done)
        });
        self.behind = Some(Behind { done, status });
        Ok(())
    }

    /// Waits for the write that was not waited for.
    async fn settle(&mut self) -> Result<()> {
        let Some(Behind { done, .. }) = self.behind.take() else { return Ok(()) };
        let (writing, done) = done.await.map_err(|error| Error::Internal(error.to_string()))?;
        self.writing = Some(writing);
        done
    }

    /// Throws away what was received.
    ///
    /// # Errors
    /// As [`Ingest::write`].
    pub async fn restart(&mut self) -> Result<()> {
        self.settle().await?;
        (self.ahead, self.streamed) = (Ahead::default(), None);
        self.run(Writing::truncate).await
    }

    /// Announces the blob's size.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it was aborted meanwhile.
    pub async fn announce(&mut self, total: u64) -> Result<()> {
        self.settle().await?;
        self.writing()?.lock.update(|status| status.total = total)?;
        Ok(())
    }

    /// Forgets the ingest where a blob that it is expected to become need not be stored any more.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], after which the ingest is gone; [`Error::Denied`], or the store's.
    pub async fn expect(&mut self, digest: &Digest) -> Result<()> {
        self.settle().await?;
        // A build's blob was looked up when it was announced: storing what another build has stored since does no harm.
        let is_announced = self.grant.documents().is_some() && self.status()?.expected == Some(*digest);
        if is_announced && !outage::is_dropped(&self.grant) {
            return Ok(());
        }
        if self.cache.need_not_have(&self.grant, digest).await? {
            self.writing()?.lock.forget().await?;
            return Err(Error::AlreadyExists(format!("blob {digest}")));
        }
        self.writing()?.lock.update(|status| status.expected = Some(*digest))?;
        Ok(())
    }

    /// Ends without a blob: the ingest is free for another writer when this returns.
    pub async fn close(mut self) {
        // What could not be written is not part of the ingest, and nobody is told.
        let _ = self.settle().await;
    }

    /// Makes the bytes visible as a blob, if they have the `size` and digest `expected` (where given).
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], also where its export is dropped, after which the ingest is gone;
    /// [`Error::Precondition`] for a wrong size or digest, [`Error::Invalid`] for labels above containerd's
    /// bounds, [`Error::NotFound`] where it was aborted meanwhile, or the store's, after which the ingest is
    /// as it was.
    pub async fn commit(mut self, size: Option<u64>, expected: Option<Digest>, labels: BTreeMap<String, String>) -> Result<(Digest, u64)> {
        self.settle().await?;
        if let Some(streamed) = self.streamed.take() {
            return self.commit_streamed(streamed, size, expected).await;
        }
        let (sums, offset) = (self.writing()?.sums(), self.writing()?.offset());
        let digest = sums.digest;
        let checked = check_content(&expected.unwrap_or(digest), size.unwrap_or(offset), &digest, offset);
        // Like containerd: that the expected blob exists counts more than that this one is another.
        if expected.is_some() || checked.is_ok() {
            self.expect(&expected.unwrap_or(digest)).await?;
        }
        checked?;
        check_labels(&labels)?;
        let grant = self.grant.clone();
        outage::unless_dropped(&grant, self.publish(sums, offset, labels)).await?;
        self.writing()?.lock.forget().await?;
        Ok((digest, offset))
    }

    async fn commit_streamed(mut self, streamed: Streamed, size: Option<u64>, expected: Option<Digest>) -> Result<(Digest, u64)> {
        let status = self.status()?;
        let digest = expected.or(status.expected).ok_or_else(|| Error::Invalid("a blob of a build needs its digest".to_owned()))?;
        self.expect(&digest).await?;
        let publish = streamed.publish(&self.cache, &self.grant, &digest, size.unwrap_or(status.offset));
        outage::unless_dropped(&self.grant, publish).await?;
        self.writing()?.lock.forget().await?;
        Ok((digest, status.offset))
    }

    /// Makes the verified bytes a document of the session, or a blob.
    async fn publish(&mut self, sums: Sums, offset: u64, labels: BTreeMap<String, String>) -> Result<()> {
        let digest = sums.digest;
        let ahead = std::mem::take(&mut self.ahead).for_blob(&digest);
        let lock = &self.writing()?.lock;
        if let Some(documents) = self.grant.documents()
            && let Some(document) = self.read_document(lock.data_path(), offset).await?
        {
            if !documents.insert(document) {
                return Err(Error::Exhausted(format!(
                    "document {digest}: a session's documents may have limits.max_manifest_bytes together"
                )));
            }
            return Ok(());
        }
        lock.give_away()?;
        // Labels first: a blob without its labels would be seen, labels without a blob are not.
        if self.grant.documents().is_none() {
            self.cache.write_labels(&self.grant, &digest, labels).await?;
        }
        let piece = lock.piece(offset);
        match ahead {
            Some(sent) => self.cache.publish_sent(&self.grant, &sums, &piece, sent).await?,
            None => self.cache.publish_blob(&self.grant, &sums, &piece).await?,
        };
        Ok(())
    }

    /// Sends on what has arrived, and nothing more of an export that is dropped.
    fn send_ahead(&mut self) -> Result<()> {
        let grant = self.grant.clone();
        if outage::is_dropped(&grant) || outage::or_dropped(&grant, self.send_arrived())?.is_none() {
            self.ahead = Ahead::default();
        }
        Ok(())
    }

    /// Sends on what has arrived, where it is known which blob it is to be and its store gains by that.
    fn send_arrived(&mut self) -> Result<()> {
        let lock = &self.writing()?.lock;
        let offset = self.writing()?.offset();
        if !self.ahead.wants(offset) {
            return Ok(());
        }
        let status = lock.update(|_| ())?;
        if self.ahead.is_undecided() {
            let sent = match status.expected {
                Some(digest) => self.cache.begin_ahead(&self.grant, &digest, status.total)?,
                _ => None,
            };
            self.ahead = Ahead::decided(sent);
        }
        let piece = self.writing()?.lock.piece(offset);
        self.ahead.send(&piece);
        Ok(())
    }

    /// The bytes, if they are a JSON object: no layer is one.
    async fn read_document(&self, path: PathBuf, len: u64) -> Result<Option<Bytes>> {
        if len > self.cache.0.settings.max_manifest_bytes {
            return Ok(None);
        }
        blocking(move || {
            let mut file = std::fs::File::open(path)?;
            let mut first = [0];
            if file.read(&mut first)? == 0 || first != *b"{" {
                return Ok(None);
            }
            let mut bytes = first.to_vec();
            file.read_to_end(&mut bytes)?;
            Ok(serde_json::from_slice::<serde::de::IgnoredAny>(&bytes).is_ok().then(|| bytes.into()))
        })
        .await
    }

    fn writing(&self) -> Result<&Writing> {
        self.writing.as_ref().ok_or_else(cut_off)
    }

    async fn run(&mut self, act: impl FnOnce(&mut Writing) -> Result<()> + Send + 'static) -> Result<()> {
        let mut writing = self.writing.take().ok_or_else(cut_off)?;
        let (writing, done) = blocking(move || {
            let done = act(&mut writing);
            Ok((writing, done))
        })
        .await?;
        self.writing = Some(writing);
        done
    }
}

/// Appends, or throws away what belongs to an export that is dropped, before this or by it.
fn take(grant: &Grant, writing: &mut Writing, data: &[u8]) -> Result<()> {
    if !outage::is_dropped(grant) && outage::or_dropped(grant, writing.append(data))?.is_some() {
        return Ok(());
    }
    writing.discard(data)
}

fn cut_off() -> Error {
    Error::Internal("an earlier call on this ingest was cut off".to_owned())
}
