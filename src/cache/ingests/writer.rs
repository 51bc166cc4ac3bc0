//! The writer of an ingest, and what becomes of its bytes.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;

use bytes::Bytes;
use time::OffsetDateTime;
use tokio::task::JoinHandle;

use super::file::IngestFile;
use super::registry::IngestName;
use super::spool_parts::SpoolParts;
use super::stream_parts::StreamParts;
use super::{IngestStatus, Ingests};
use crate::cache::blocking::blocking;
use crate::cache::labels::check_labels;
use crate::cache::write::receive::check_content;
use crate::cache::{Error, Result, outage};
use crate::types::{Digest, Grant, Sums};

/// The one writer of an ingest. The ingest is free for another one when this is dropped, or a moment later
/// where a write still goes on; what was written stays.
#[derive(Debug)]
pub struct Ingest {
    ingests: Ingests,
    grant: Grant,
    name: IngestName,
    state: WriterState,
}

/// Where the bytes go.
#[derive(Debug)]
enum WriterState {
    /// They go to the spool's file, and those of a large blob from there into the store while more arrives.
    Spooling { file: IngestFile, early: SpoolParts },
    /// They go to the spool's file, by a write that goes on after its call has returned.
    Behind {
        done: JoinHandle<(IngestFile, Result<()>)>,
        /// The status once the write is done.
        status: IngestStatus,
    },
    /// They go into the store, and none of them to the spool's file: those of a build's large blob.
    Streaming { file: IngestFile, parts: StreamParts },
    /// A call is under way, or was cut off.
    Busy,
}

impl Ingest {
    pub(super) fn new(ingests: Ingests, grant: Grant, name: IngestName, file: IngestFile) -> Self {
        Self { ingests, grant, name, state: WriterState::spooling(file) }
    }

    /// How far it is.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it was aborted meanwhile.
    pub fn status(&self) -> Result<IngestStatus> {
        match &self.state {
            WriterState::Behind { status, .. } => Ok(status.clone()),
            _ => self.file()?.lock.update(|_| ()),
        }
    }

    /// The digest of what was received so far. `None` while that is not known.
    ///
    /// # Errors
    /// [`Error::Internal`] after a call that was cut off.
    pub fn digest(&self) -> Result<Option<Digest>> {
        match &self.state {
            WriterState::Behind { .. } | WriterState::Streaming { .. } => Ok(None),
            WriterState::Spooling { .. } | WriterState::Busy => Ok(Some(self.file()?.sums().digest)),
        }
    }

    /// Appends. `offset` must be where the ingest is. The bytes are in the spool when this returns. Those of a build's
    /// session, which no other writer takes up again, are there when the next call returns, and that call has the errors.
    /// They are thrown away where the export that they belong to is dropped.
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
        if !self.grant.is_session() {
            let grant = self.grant.clone();
            self.run(move |file| take(&grant, file, &data)).await?;
            return self.send_early();
        }
        // Bytes that begin so may be a document of the session, which stays here.
        if let Some(digest) = status.expected.filter(|_| offset == 0 && !data.starts_with(b"{")) {
            self.choose_way(&digest, status.total)?;
        }
        match &self.state {
            WriterState::Streaming { .. } => self.stream(data).await,
            _ => self.write_behind(data),
        }
    }

    /// Decides, at the beginning of a build's blob, whether its bytes go to the spool or into the store.
    fn choose_way(&mut self, digest: &Digest, total: u64) -> Result<()> {
        let room = &self.ingests.0;
        if room.writes.journal(&self.grant).is_some_and(|journal| journal.has_room(total)) {
            return Ok(());
        }
        let parts = StreamParts::begin(&room.writes, &room.shutdown, &self.grant, digest, total)?;
        let (file, _) = self.take_file()?;
        self.state = match parts {
            Some(parts) => WriterState::Streaming { file, parts },
            None => WriterState::spooling(file),
        };
        Ok(())
    }

    /// Hands the bytes on, or throws them away where the export that they belong to is dropped.
    async fn stream(&mut self, data: Bytes) -> Result<()> {
        let end = self.status()?.offset + data.len() as u64;
        if let WriterState::Streaming { parts, .. } = &mut self.state {
            outage::unless_dropped(&self.grant, parts.write(data)).await?;
        }
        self.file()?.lock.update(|status| status.advance(end))?;
        Ok(())
    }

    /// Begins to append. The client sends its next message meanwhile.
    fn write_behind(&mut self, data: Bytes) -> Result<()> {
        let status = self.status()?;
        let status = IngestStatus { offset: status.offset + data.len() as u64, updated: OffsetDateTime::now_utc(), ..status };
        let grant = self.grant.clone();
        let (mut file, _) = self.take_file()?;
        let done = tokio::task::spawn_blocking(move || {
            let done = take(&grant, &mut file, &data);
            (file, done)
        });
        self.state = WriterState::Behind { done, status };
        Ok(())
    }

    /// Waits for the write that was not waited for.
    async fn settle(&mut self) -> Result<()> {
        let WriterState::Behind { done, .. } = &mut self.state else { return Ok(()) };
        let joined = done.await;
        self.state = WriterState::Busy;
        let (file, done) = joined.map_err(|error| Error::Internal(error.to_string()))?;
        self.state = WriterState::spooling(file);
        done
    }

    /// Throws away what was received.
    ///
    /// # Errors
    /// Those of [`Ingest::write`].
    pub async fn restart(&mut self) -> Result<()> {
        self.settle().await?;
        let (file, _) = self.take_file()?;
        self.state = WriterState::spooling(file);
        self.run(IngestFile::truncate).await
    }

    /// Announces the blob's size.
    ///
    /// # Errors
    /// [`Error::NotFound`] where it was aborted meanwhile.
    pub async fn announce(&mut self, total: u64) -> Result<()> {
        self.settle().await?;
        self.file()?.lock.update(|status| status.total = total)?;
        Ok(())
    }

    /// Forgets the ingest where a blob that it is expected to become need not be stored any more.
    ///
    /// # Errors
    /// [`Error::AlreadyExists`], after which the ingest is gone; [`Error::Denied`], or the store's.
    pub async fn expect(&mut self, digest: &Digest) -> Result<()> {
        self.settle().await?;
        // A build's blob was looked up when it was announced: storing what another build has stored since does no harm.
        let is_announced = self.grant.is_session() && self.status()?.expected == Some(*digest);
        if is_announced && !outage::is_dropped(&self.grant) {
            return Ok(());
        }
        if self.ingests.is_unneeded(&self.grant, digest).await? {
            self.file()?.lock.forget().await?;
            return Err(Error::AlreadyExists(format!("blob {digest}")));
        }
        self.file()?.lock.update(|status| status.expected = Some(*digest))?;
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
        if matches!(self.state, WriterState::Streaming { .. }) {
            return self.commit_streamed(size, expected).await;
        }
        let sums = self.file()?.sums();
        let offset = self.file()?.offset();
        let digest = sums.digest;
        let checked = check_content(&expected.unwrap_or(digest), size.unwrap_or(offset), &digest, offset);
        // As in containerd, that the expected blob exists counts more than that this one is another.
        if expected.is_some() || checked.is_ok() {
            self.expect(&expected.unwrap_or(digest)).await?;
        }
        checked?;
        check_labels(&labels)?;
        let grant = self.grant.clone();
        outage::unless_dropped(&grant, self.publish(sums, offset, labels)).await?;
        self.file()?.lock.forget().await?;
        Ok((digest, offset))
    }

    async fn commit_streamed(mut self, size: Option<u64>, expected: Option<Digest>) -> Result<(Digest, u64)> {
        let status = self.status()?;
        let digest = expected.or(status.expected).ok_or_else(|| Error::Invalid("a blob of a build needs its digest".to_owned()))?;
        self.expect(&digest).await?;
        let WriterState::Streaming { file, parts } = std::mem::replace(&mut self.state, WriterState::Busy) else { return Err(cut_off()) };
        let publish = parts.publish(&self.ingests.0.writes, &self.grant, &digest, size.unwrap_or(status.offset));
        outage::unless_dropped(&self.grant, publish).await?;
        file.lock.forget().await?;
        Ok((digest, status.offset))
    }

    /// Makes the verified bytes a document of the session, or a blob.
    async fn publish(&mut self, sums: Sums, offset: u64, labels: BTreeMap<String, String>) -> Result<()> {
        let digest = sums.digest;
        let early = match &mut self.state {
            WriterState::Spooling { early, .. } => std::mem::take(early),
            _ => SpoolParts::default(),
        };
        let lock = &self.file()?.lock;
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
        if !self.grant.is_session() {
            self.ingests.0.labels.write(&self.grant, &digest, labels).await?;
        }
        early.publish(&self.ingests.0.writes, &self.grant, &sums, &lock.payload(offset)).await?;
        Ok(())
    }

    /// Sends on what has arrived, and nothing more of an export that is dropped.
    fn send_early(&mut self) -> Result<()> {
        let grant = self.grant.clone();
        if (outage::is_dropped(&grant) || outage::or_dropped(&grant, self.send_arrived())?.is_dropped())
            && let WriterState::Spooling { early, .. } = &mut self.state
        {
            *early = SpoolParts::default();
        }
        Ok(())
    }

    /// Sends on what has arrived, where it is known which blob it will be and its store takes parts faster.
    fn send_arrived(&mut self) -> Result<()> {
        let WriterState::Spooling { file, early } = &mut self.state else { return Err(cut_off()) };
        if !early.is_due(file.offset()) {
            return Ok(());
        }
        let status = file.lock.update(|_| ())?;
        early.decide(&self.ingests.0.writes, &self.grant, status.expected, status.total)?;
        early.send(&file.lock.payload(file.offset()));
        Ok(())
    }

    /// The bytes, if they are a JSON object: no layer is one.
    async fn read_document(&self, path: PathBuf, len: u64) -> Result<Option<Bytes>> {
        if len > self.ingests.0.max_document_bytes {
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

    fn file(&self) -> Result<&IngestFile> {
        match &self.state {
            WriterState::Spooling { file, .. } | WriterState::Streaming { file, .. } => Ok(file),
            WriterState::Behind { .. } | WriterState::Busy => Err(cut_off()),
        }
    }

    /// Takes the file for a call, with the parts that were sent from it. A call that is cut off does not bring it back.
    fn take_file(&mut self) -> Result<(IngestFile, SpoolParts)> {
        match std::mem::replace(&mut self.state, WriterState::Busy) {
            WriterState::Spooling { file, early } => Ok((file, early)),
            WriterState::Streaming { file, .. } => Ok((file, SpoolParts::default())),
            WriterState::Behind { .. } | WriterState::Busy => Err(cut_off()),
        }
    }

    async fn run(&mut self, act: impl FnOnce(&mut IngestFile) -> Result<()> + Send + 'static) -> Result<()> {
        let (mut file, early) = self.take_file()?;
        let (file, done) = blocking(move || {
            let done = act(&mut file);
            Ok((file, done))
        })
        .await?;
        self.state = WriterState::Spooling { file, early };
        done
    }
}

impl WriterState {
    fn spooling(file: IngestFile) -> Self {
        Self::Spooling { file, early: SpoolParts::default() }
    }
}

/// Appends, or throws away what belongs to an export that is dropped, before this or by it.
fn take(grant: &Grant, file: &mut IngestFile, data: &[u8]) -> Result<()> {
    if !outage::is_dropped(grant) && !outage::or_dropped(grant, file.append(data))?.is_dropped() {
        return Ok(());
    }
    file.discard(data)
}

fn cut_off() -> Error {
    Error::Internal("an earlier call on this ingest was cut off".to_owned())
}
