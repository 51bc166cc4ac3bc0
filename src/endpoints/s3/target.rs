//! What a request's key names, and the grant that applies there.

use s3s::dto::CopySource;
use s3s::{S3Error, S3ErrorCode, S3Result};

use crate::cache::layout::{self, Item};
use crate::types::Grant;

/// A blob or a manifest in the caller's bucket.
#[derive(Debug)]
pub(super) struct Target {
    /// The caller's grant for the prefix that the key has.
    pub(super) grant: Grant,
    /// What the key names under that prefix.
    pub(super) item: Item,
}

impl Target {
    /// What `key` names; `None` for a key that can name neither a blob nor a manifest.
    pub(super) fn find(grant: &Grant, key: &str) -> S3Result<Option<Self>> {
        let scope = grant.scope();
        if !key.starts_with(scope.prefix()) {
            let message = format!("this access key is for {scope} alone");
            return Err(S3Error::with_message(S3ErrorCode::AccessDenied, message));
        }
        match layout::locate(scope, key) {
            Some((below, item)) => Ok(Some(Self { grant: grant.below(&below)?, item })),
            None => Ok(None),
        }
    }

    /// What `key` names, for reading. A key that can name nothing has no object.
    pub(super) fn to_read(grant: &Grant, key: &str) -> S3Result<Self> {
        Self::find(grant, key)?.ok_or_else(|| S3Error::with_message(S3ErrorCode::NoSuchKey, format!("not found: {key}")))
    }

    /// What `key` names, for writing. A key that can name nothing is invalid.
    pub(super) fn to_write(grant: &Grant, key: &str) -> S3Result<Self> {
        let refuse = || {
            let scope = grant.scope();
            let (blobs, manifests) = (layout::blobs_prefix(scope), layout::manifests_prefix(scope));
            let message = format!("invalid key {key:?}: want {blobs}sha256:<64 hex digits> or {manifests}<name>");
            S3Error::with_message(S3ErrorCode::InvalidRequest, message)
        };
        Self::find(grant, key)?.ok_or_else(refuse)
    }

    /// Checks that a copy is of an object onto itself, which is how clients make an object young again.
    pub(super) fn check_copy(source: &CopySource, bucket: &str, key: &str) -> S3Result<()> {
        match source {
            CopySource::Bucket { bucket: from_bucket, key: from_key, .. } if **from_bucket == *bucket && **from_key == *key => Ok(()),
            _ => Err(S3Error::with_message(S3ErrorCode::NotImplemented, "an object can be copied onto itself only")),
        }
    }
}
