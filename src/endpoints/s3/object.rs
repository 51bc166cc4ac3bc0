//! Single objects: Head, Get (with ranges), Put, Copy of an object onto itself, Delete.

use std::pin::Pin;
use std::sync::Mutex;
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::{Stream, StreamExt};
use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Result};
use time::OffsetDateTime;

use crate::cache::layout::Item;
use crate::cache::{self, BlobInfo, Condition, Export, Incoming, ManifestInfo, Outgoing};
use crate::metrics::{Endpoint, Kind, Metrics};
use crate::types::{self, ByteRange, Grant, RangeSpec, Right};

use super::condition;
use super::operations::Operations;
use super::request_body::RequestBody;
use super::target::Target;

/// The most bytes of one put and of one part, as in S3.
pub(super) const MAX_PUT_BYTES: u64 = 5 << 30;
const CONTENT_TYPE: &str = "application/octet-stream";

/// What is known of an object.
struct Stat {
    size: u64,
    etag: types::ETag,
    modified: OffsetDateTime,
}

impl From<BlobInfo> for Stat {
    fn from(blob: BlobInfo) -> Self {
        Self { size: blob.size, etag: blob.etag, modified: blob.modified }
    }
}

impl From<ManifestInfo> for Stat {
    fn from(manifest: ManifestInfo) -> Self {
        Self { size: manifest.size, etag: manifest.etag, modified: manifest.modified }
    }
}

impl Operations {
    pub(super) async fn head(&self, grant: &Grant, input: &HeadObjectInput) -> S3Result<HeadObjectOutput> {
        check_whole(input.part_number, input.version_id.as_deref())?;
        let target = Target::to_read(grant, &input.key)?;
        let found = match &target.item {
            // An exporter asks first, and sends what is not there. Touched here, BuildKit need not: a round
            // trip less, and s3s refuses its copy of an object in a bucket with a `_` in its name.
            Item::Blob(digest) if target.grant.check(Right::Write).is_ok() => {
                match self.cache.tolerant().find_to_reuse(&target.grant, digest).await {
                    // Nothing was found, but nothing needs to be sent either.
                    Ok(Export::Dropped) => Stat { size: 0, etag: dropped_etag(), modified: OffsetDateTime::now_utc() },
                    Ok(Export::Stored(found)) => self.looked_up(&target.item, Ok(found.into()))?,
                    Err(error) => self.looked_up(&target.item, Err(error))?,
                }
            }
            Item::Blob(digest) => {
                self.looked_up(&target.item, self.cache.tolerant().stat_blob(&target.grant, digest).await.map(Stat::from))?
            }
            Item::Manifest(name) => {
                self.looked_up(&target.item, self.cache.tolerant().stat_manifest(&target.grant, name).await.map(Stat::from))?
            }
        };
        condition::check_read(input.if_match.as_ref(), input.if_none_match.as_ref(), &found.etag)?;
        Ok(HeadObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(signed(found.size)),
            content_type: Some(CONTENT_TYPE.to_owned()),
            e_tag: Some(quoted(&found.etag)),
            last_modified: Some(found.modified.into()),
            ..Default::default()
        })
    }

    async fn stat(&self, target: &Target) -> cache::Result<Stat> {
        match &target.item {
            Item::Blob(digest) => self.cache.blobs().stat(&target.grant, digest).await.map(Stat::from),
            Item::Manifest(name) => self.cache.manifests().stat(&target.grant, name).await.map(Stat::from),
        }
    }

    pub(super) async fn get(&self, grant: &Grant, input: &GetObjectInput) -> S3Result<GetObjectOutput> {
        check_whole(input.part_number, input.version_id.as_deref())?;
        let target = Target::to_read(grant, &input.key)?;
        let wanted = input.range.map(range_spec).transpose()?;
        let (found, range, body) = match &target.item {
            Item::Blob(digest) => {
                let range = self.blob_range(&target, wanted).await?;
                let read = self.looked_up(&target.item, self.cache.blobs().read_promised(&target.grant, digest, range).await)?;
                (read.info.into(), read.range, read.body)
            }
            Item::Manifest(name) => {
                let manifest = self.looked_up(&target.item, self.cache.tolerant().import(&target.grant, name).await)?;
                let size = manifest.bytes.len() as u64;
                let range = match wanted {
                    Some(wanted) => Some(wanted.within(size).ok_or_else(out_of_range)?),
                    None => ByteRange::new(0, size),
                };
                let part = range.map_or_else(Bytes::new, |range| manifest.bytes.slice(index(range.start())..index(range.end())));
                let body: Outgoing = Box::pin(futures_util::stream::once(async { Ok(part) }));
                (Stat { size, etag: manifest.etag, modified: manifest.modified }, range, body)
            }
        };
        condition::check_read(input.if_match.as_ref(), input.if_none_match.as_ref(), &found.etag)?;
        let part = range.filter(|_| wanted.is_some());
        Ok(GetObjectOutput {
            accept_ranges: Some("bytes".to_owned()),
            content_length: Some(signed(range.map_or(0, ByteRange::len))),
            content_range: part.map(|part| format!("bytes {}-{}/{}", part.start(), part.end() - 1, found.size)),
            content_type: Some(CONTENT_TYPE.to_owned()),
            e_tag: Some(quoted(&found.etag)),
            last_modified: Some(found.modified.into()),
            body: Some(self.outgoing(body)),
            ..Default::default()
        })
    }

    /// The range as the cache takes it: it has both ends, so a suffix needs the size of the blob.
    async fn blob_range(&self, target: &Target, wanted: Option<RangeSpec>) -> S3Result<Option<ByteRange>> {
        let Some(wanted) = wanted else { return Ok(None) };
        let range = match wanted {
            RangeSpec::Suffix(_) => wanted.within(self.stat(target).await?.size),
            RangeSpec::Bounded(_) | RangeSpec::From(_) => wanted.to_byte_range(),
        };
        range.map(Some).ok_or_else(out_of_range)
    }

    pub(super) async fn put(&self, grant: &Grant, input: PutObjectInput, sent: RequestBody) -> S3Result<PutObjectOutput> {
        let target = Target::to_write(grant, &input.key)?;
        let size = body_size(input.content_length)?;
        let condition = condition::of_write(input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let tolerant = self.cache.tolerant();
        let stored = match &target.item {
            Item::Blob(digest) => {
                let check = self.check_blob_condition(&target, condition);
                tolerant.put_blob(&target.grant, digest, size, sent.body, check).await?.map(|stored| stored.etag)
            }
            Item::Manifest(name) => {
                // Refused before a byte of it is read.
                tolerant.admit_manifest(&target.grant, name, size).map_err(too_large)?;
                tolerant.publish(&target.grant, name, collect(sent.checked(), size), condition).await?
            }
        };
        Ok(PutObjectOutput { e_tag: Some(quoted(&etag_of(stored))), ..Default::default() })
    }

    /// Whoever writes a blob writes the same bytes, so a look before is as good as a conditional write.
    async fn check_blob_condition(&self, target: &Target, condition: Condition) -> S3Result<()> {
        let refused = |message: &str| Err(S3Error::with_message(S3ErrorCode::PreconditionFailed, message.to_owned()));
        if condition == Condition::None {
            return Ok(());
        }
        match (condition, self.stat(target).await) {
            (Condition::Absent, Ok(_)) => refused("the object exists"),
            (Condition::Matches(wanted), Ok(found)) if wanted != found.etag => refused("the object is another version"),
            (Condition::Matches(_), Err(cache::Error::NotFound(_))) => refused("there is no such object"),
            (Condition::Absent, Err(cache::Error::NotFound(_))) | (_, Ok(_)) => Ok(()),
            (_, Err(error)) => Err(error.into()),
        }
    }

    pub(super) async fn copy(&self, grant: &Grant, input: &CopyObjectInput) -> S3Result<CopyObjectOutput> {
        let target = Target::to_read(grant, &input.key)?;
        Target::check_copy(&input.copy_source, &input.bucket, &input.key)?;
        let Item::Blob(digest) = &target.item else {
            return Err(S3Error::with_message(S3ErrorCode::NotImplemented, "a manifest becomes young by being put again"));
        };
        let (etag, modified) = match self.cache.blobs().keep_young(&target.grant, digest).await? {
            Some(touched) => (touched.etag, touched.modified),
            // The blob is there: that it could not be made younger fails no build.
            None => (dropped_etag(), OffsetDateTime::now_utc()),
        };
        let result = CopyObjectResult { e_tag: Some(quoted(&etag)), last_modified: Some(modified.into()), ..Default::default() };
        Ok(CopyObjectOutput { copy_object_result: Some(result), ..Default::default() })
    }

    pub(super) async fn delete(&self, grant: &Grant, key: &str) -> S3Result<()> {
        let deleted = match Target::find(grant, key)? {
            None => Ok(()),
            Some(Target { grant, item: Item::Blob(digest) }) => self.cache.blobs().delete(&grant, &digest).await,
            Some(Target { grant, item: Item::Manifest(name) }) => self.cache.manifests().delete(&grant, &name).await,
        };
        match deleted {
            // As S3: what was not there is gone too.
            Ok(()) | Err(cache::Error::NotFound(_)) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    fn looked_up<T>(&self, item: &Item, result: cache::Result<T>) -> S3Result<T> {
        let kind = match item {
            Item::Blob(_) => Kind::Blob,
            Item::Manifest(_) => Kind::Manifest,
        };
        match &result {
            Ok(_) => self.metrics.lookup(Endpoint::S3, kind, true),
            Err(cache::Error::NotFound(_)) => self.metrics.lookup(Endpoint::S3, kind, false),
            Err(_) => {}
        }
        Ok(result?)
    }

    fn outgoing(&self, body: Outgoing) -> StreamingBlob {
        StreamingBlob::wrap(Sent { body: Mutex::new(body), metrics: self.metrics.clone() })
    }
}

/// The answer to a manifest that is too large.
pub(super) fn too_large(error: cache::Error) -> S3Error {
    match error {
        cache::Error::Exhausted(_) => S3Error::with_message(S3ErrorCode::EntityTooLarge, error.to_string()),
        other => other.into(),
    }
}

/// The version that a client is told.
pub(super) fn etag_of(stored: Export<types::ETag>) -> types::ETag {
    stored.stored().unwrap_or_else(dropped_etag)
}

/// The version of what was taken and dropped.
fn dropped_etag() -> types::ETag {
    types::ETag::new("dropped")
}

/// The body of a response. s3s requires it to be `Sync`, hence the mutex, which is never locked.
struct Sent {
    body: Mutex<Outgoing>,
    metrics: Metrics,
}

impl Stream for Sent {
    type Item = cache::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Self { body, metrics } = &mut *self;
        let body = body.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner);
        body.as_mut().poll_next(context).map(|chunk| {
            chunk.inspect(|chunk| match chunk {
                Ok(chunk) => metrics.sent(Endpoint::S3, chunk.len() as u64),
                Err(error) => tracing::warn!(%error, "a response broke off"),
            })
        })
    }
}

/// The announced size of a body.
pub(super) fn body_size(content_length: Option<i64>) -> S3Result<u64> {
    let size = content_length.and_then(|length| u64::try_from(length).ok());
    let size = size.ok_or_else(|| S3Error::new(S3ErrorCode::MissingContentLength))?;
    if size > MAX_PUT_BYTES {
        return Err(S3Error::with_message(S3ErrorCode::EntityTooLarge, format!("{size} bytes; one request takes {MAX_PUT_BYTES}")));
    }
    Ok(size)
}

/// Collects a body of `size` bytes.
async fn collect(mut body: Incoming, size: u64) -> cache::Result<Bytes> {
    let mut bytes = BytesMut::new();
    while let Some(chunk) = body.next().await {
        bytes.extend_from_slice(&chunk?);
        if bytes.len() as u64 > size {
            break;
        }
    }
    if bytes.len() as u64 == size {
        Ok(bytes.freeze())
    } else {
        Err(cache::Error::Precondition(format!("not the announced {size} bytes arrived")))
    }
}

/// Refuses requests for a part or a version: objects have one version and, once stored, no parts.
fn check_whole(part: Option<PartNumber>, version: Option<&str>) -> S3Result<()> {
    if part.is_some() {
        return Err(S3Error::with_message(S3ErrorCode::NotImplemented, "objects cannot be read by part number"));
    }
    match version {
        None | Some("null") => Ok(()),
        Some(_) => Err(S3Error::new(S3ErrorCode::NoSuchVersion)),
    }
}

pub(super) fn quoted(etag: &types::ETag) -> ETag {
    ETag::Strong(etag.as_str().to_owned())
}

/// S3's sizes are signed numbers. The sizes here are far below the point where that matters.
pub(super) fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}

/// What a `Range` header asks for.
fn range_spec(range: Range) -> S3Result<RangeSpec> {
    match range {
        // S3's last byte is part of the range.
        Range::Int { first, last: Some(last) } => {
            ByteRange::new(first, last.saturating_add(1)).map(RangeSpec::Bounded).ok_or_else(out_of_range)
        }
        Range::Int { first, last: None } => Ok(RangeSpec::From(first)),
        Range::Suffix { length } => Ok(RangeSpec::Suffix(length)),
    }
}

fn out_of_range() -> S3Error {
    S3Error::new(S3ErrorCode::InvalidRange)
}

/// An index into bytes in memory.
fn index(offset: u64) -> usize {
    usize::try_from(offset).unwrap_or(usize::MAX)
}
