//! Multipart uploads, as S3 has them: numbered parts in any order, joined at the end.
//!
//! An upload lives in memory and in the spool, and ends with the process: S3 clients begin again.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use bytes::Bytes;
use futures_util::StreamExt;

use super::blobs::collect;
use super::layout::Item;
use super::spool::{self, FinishedFile, SpoolFile};
use super::{Cache, Condition, Error, Incoming, Result, Settings};
use crate::types::{Digest, ETag, Grant, Right};

/// Pieces in which parts are read back when they are joined.
const JOIN_BYTES: usize = 1 << 20;

/// An open upload.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UploadId(String);

impl UploadId {
    /// Takes an id as a client sends it back. One that was never given out is not found later.
    #[must_use]
    pub fn new(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A part on its way in.
pub struct NewPart {
    /// 1 to 10,000.
    pub number: u16,
    /// Bytes announced.
    pub size: u64,
    /// The bytes.
    pub body: Incoming,
}

impl fmt::Debug for NewPart {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewPart").field("number", &self.number).field("size", &self.size).finish_non_exhaustive()
    }
}

#[derive(Debug, Default)]
pub(super) struct Registry(Mutex<HashMap<UploadId, Upload>>);

#[derive(Debug)]
struct Upload {
    grant: Grant,
    item: Item,
    parts: BTreeMap<u16, (ETag, Content)>,
    last_used: Instant,
}

/// A part that was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadedPart {
    /// 1 to 10,000.
    pub number: u16,
    /// Its version.
    pub etag: ETag,
    /// Bytes; 0 for a copy of the object itself.
    pub size: u64,
}

#[derive(Debug, Clone)]
enum Content {
    Sent(Arc<FinishedFile>),
    /// A copy of the object itself: how BuildKit touches blobs of 5 GiB and more.
    Itself,
}

impl Registry {
    pub(super) async fn open(settings: &Settings) -> Result<Self> {
        spool::prepare(&settings.spool_dir).await?;
        Ok(Self::default())
    }

    fn with<T>(&self, id: &UploadId, grant: &Grant, item: &Item, act: impl FnOnce(&mut Upload) -> T) -> Result<T> {
        let mut uploads = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Somebody else's upload does not exist for this caller.
        match uploads.get_mut(id) {
            Some(upload) if upload.item == *item && upload.grant.scope() == grant.scope() => {
                upload.last_used = Instant::now();
                Ok(act(upload))
            }
            _ => Err(Error::NotFound(format!("upload {id}"))),
        }
    }

    fn remove(&self, id: &UploadId) -> Option<Upload> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id)
    }
}

impl Cache {
    /// Begins an upload of a blob or a manifest.
    ///
    /// # Errors
    /// [`Error::Denied`], or [`Error::Exhausted`] with too many open.
    pub fn begin_upload(&self, grant: &Grant, item: Item) -> Result<UploadId> {
        check(grant, &item)?;
        self.store(grant)?;
        let settings = &self.0.settings;
        let mut uploads = self.0.uploads.0.lock().unwrap_or_else(PoisonError::into_inner);
        uploads.retain(|_, upload| upload.last_used.elapsed() < settings.ingest_expiry);
        if uploads.len() >= settings.max_open_ingests {
            return Err(Error::Exhausted(format!("{} uploads are open; limits.max_open_ingests allows no more", uploads.len())));
        }
        let id = UploadId(format!("{:032x}", rand::random::<u128>()));
        uploads.insert(id.clone(), Upload { grant: grant.clone(), item, parts: BTreeMap::new(), last_used: Instant::now() });
        Ok(id)
    }

    /// Takes one part.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown upload, [`Error::Precondition`] where fewer or more bytes
    /// arrive, [`Error::Exhausted`] with the spool full.
    pub async fn upload_part(&self, grant: &Grant, item: &Item, id: &UploadId, part: NewPart) -> Result<ETag> {
        let NewPart { number, size, mut body } = part;
        self.0.uploads.with(id, grant, item, |_| ())?;
        let mut file = SpoolFile::create(&self.0.settings.spool_dir).await?;
        while let Some(piece) = body.next().await {
            file.write(piece?).await?;
            if file.len() > size {
                break;
            }
        }
        if file.len() != size {
            return Err(Error::Precondition(format!("part {number}: {} bytes arrived, {size} were announced", file.len())));
        }
        let etag = ETag::new(&file.digest().to_string()["sha256:".len()..]);
        let content = Content::Sent(Arc::new(file.finish().await?));
        self.0.uploads.with(id, grant, item, |upload| upload.parts.insert(number, (etag.clone(), content)))?;
        Ok(etag)
    }

    /// Takes a part of the object itself as a part: an upload of nothing else is a touch.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown upload.
    pub fn upload_part_of_itself(&self, grant: &Grant, item: &Item, id: &UploadId, number: u16) -> Result<ETag> {
        let etag = ETag::new(&format!("copy-{number}"));
        self.0.uploads.with(id, grant, item, |upload| upload.parts.insert(number, (etag.clone(), Content::Itself)))?;
        Ok(etag)
    }

    /// The parts that were sent so far, by number.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown upload.
    pub fn upload_parts(&self, grant: &Grant, item: &Item, id: &UploadId) -> Result<Vec<UploadedPart>> {
        let size = |content: &Content| match content {
            Content::Sent(file) => file.len(),
            Content::Itself => 0,
        };
        self.0.uploads.with(id, grant, item, |upload| {
            let parts = upload.parts.iter();
            parts.map(|(&number, (etag, content))| UploadedPart { number, etag: etag.clone(), size: size(content) }).collect()
        })
    }

    /// Joins the parts and makes them visible, if they are what they should be.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown upload, [`Error::Invalid`] for parts that were not sent,
    /// [`Error::Precondition`] for a wrong digest or a missing blob, or the store's. The upload is open
    /// still after an error that another try may mend.
    pub async fn complete_upload(
        &self,
        grant: &Grant,
        item: &Item,
        id: &UploadId,
        parts: &[(u16, ETag)],
        condition: Condition,
    ) -> Result<ETag> {
        let contents = self.0.uploads.with(id, grant, item, |upload| select(upload, parts))??;
        let files: Vec<Arc<FinishedFile>> = contents
            .iter()
            .filter_map(|content| match content {
                Content::Sent(file) => Some(Arc::clone(file)),
                Content::Itself => None,
            })
            .collect();
        let etag = match item {
            Item::Blob(digest) if files.is_empty() => self.touch_blob(grant, digest).await?.etag,
            _ if files.len() != contents.len() => {
                return Err(Error::Invalid(format!("upload {id} mixes sent parts with copies")));
            }
            Item::Blob(digest) => self.publish_joined(grant, digest, &files).await?,
            Item::Manifest(name) => {
                let size: u64 = files.iter().map(|file| file.len()).sum();
                self.check_manifest_size(size)?;
                let document = collect(joined(files), size).await?;
                self.put_manifest(grant, name, document, condition).await?
            }
        };
        self.0.uploads.remove(id);
        Ok(etag)
    }

    /// Forgets an upload.
    ///
    /// # Errors
    /// [`Error::NotFound`] for an unknown one.
    pub fn abort_upload(&self, grant: &Grant, item: &Item, id: &UploadId) -> Result<()> {
        self.0.uploads.with(id, grant, item, |_| ())?;
        self.0.uploads.remove(id);
        Ok(())
    }

    async fn publish_joined(&self, grant: &Grant, digest: &Digest, files: &[Arc<FinishedFile>]) -> Result<ETag> {
        let mut whole = SpoolFile::create(&self.0.settings.spool_dir).await?;
        let mut body = joined(files.to_vec());
        while let Some(piece) = body.next().await {
            whole.write(piece?).await?;
        }
        let actual = whole.digest();
        if actual != *digest {
            return Err(Error::Precondition(format!("blob {digest}: the bytes that arrived have the digest {actual}")));
        }
        let finished = whole.finish().await?;
        Ok(self.publish_blob(grant, digest, finished.body()).await?.etag)
    }
}

fn check(grant: &Grant, item: &Item) -> Result<()> {
    match item {
        Item::Blob(digest) => grant.check_blob(Right::Write, digest)?,
        Item::Manifest(name) => grant.check_manifest(Right::Write, name)?,
    }
    Ok(())
}

/// The contents of `wanted`, which must have been sent with those tags, in rising order.
fn select(upload: &Upload, wanted: &[(u16, ETag)]) -> Result<Vec<Content>> {
    if wanted.is_empty() || !wanted.is_sorted_by(|(left, _), (right, _)| left < right) {
        return Err(Error::Invalid("the parts of an upload must be named, in rising order".to_owned()));
    }
    wanted
        .iter()
        .map(|(number, etag)| match upload.parts.get(number) {
            Some((sent, content)) if sent == etag => Ok(content.clone()),
            _ => Err(Error::Invalid(format!("part {number} with the etag {etag} was not sent"))),
        })
        .collect()
}

fn joined(files: Vec<Arc<FinishedFile>>) -> Incoming {
    let pieces = futures_util::stream::iter(files).then(|file| async move {
        let reader = tokio::fs::File::open(file.path()).await;
        // The guard rides along: the file stays until it is read.
        reader.map(|reader| tokio_util::io::ReaderStream::with_capacity(reader, JOIN_BYTES).map(move |piece| (piece, Arc::clone(&file)).0))
    });
    let flat = pieces.flat_map(|opened| match opened {
        Ok(stream) => stream.map(|piece: std::io::Result<Bytes>| piece.map_err(Error::from)).boxed(),
        Err(error) => futures_util::stream::once(async move { Err(Error::from(error)) }).boxed(),
    });
    Box::pin(flat)
}
