//! The first rung of a read: the documents of a build's session, which are in memory and in no store.

use bytes::Bytes;
use futures_util::stream;

use crate::cache::{BlobInfo, BlobRead, Error, Result};
use crate::types::{ByteRange, Digest, Grant};

/// A document of the session that the grant was made for.
pub(super) fn of(grant: &Grant, digest: &Digest) -> Option<Bytes> {
    grant.documents()?.get(digest)
}

/// Reads a document or a part of it.
pub(super) fn read(digest: Digest, document: &Bytes, range: Option<ByteRange>) -> Result<BlobRead> {
    let size = document.len() as u64;
    let range = match range {
        Some(range) if range.start() >= size => {
            return Err(Error::OutOfRange(format!("{digest} has {size} bytes: none from {} on", range.start())));
        }
        Some(range) => ByteRange::new(range.start(), range.end().min(size)),
        None => ByteRange::new(0, size),
    };
    let index = |offset: u64| usize::try_from(offset).unwrap_or(usize::MAX);
    let part = range.map_or_else(Bytes::new, |range| document.slice(index(range.start())..index(range.end())));
    let body = stream::once(async { Ok(part) });
    Ok(BlobRead { info: BlobInfo::unstored(digest, size), range, body: Box::pin(body) })
}
