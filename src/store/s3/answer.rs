//! What S3's answers say of an object, and the error where they leave it out.

use aws_sdk_s3::primitives::DateTime;
use time::OffsetDateTime;

use crate::store::{Error, Meta, Result};
use crate::types::ETag;

pub(super) fn etag(key: &str, text: Option<&str>) -> Result<ETag> {
    text.map(ETag::new).ok_or_else(|| unanswered(key, "ETag"))
}

pub(super) fn meta(key: &str, size: Option<i64>, tag: Option<&str>, modified: Option<&DateTime>) -> Result<Meta> {
    let size = size.and_then(|size| u64::try_from(size).ok()).ok_or_else(|| unanswered(key, "size"))?;
    let modified = modified.and_then(|time| OffsetDateTime::from_unix_timestamp(time.secs()).ok());
    Ok(Meta { size, etag: etag(key, tag)?, modified: modified.ok_or_else(|| unanswered(key, "Last-Modified"))? })
}

/// The error for an answer that lacks what S3 always sends.
pub(super) fn unanswered(subject: &str, what: &str) -> Error {
    Error::Internal { message: format!("the store's answer for {subject:?} has no valid {what}"), source: None }
}
