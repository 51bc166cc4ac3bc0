//! Which cache a call is about, from its metadata.

use tonic::Status;
use tonic::metadata::MetadataMap;

use super::status::from_error;
use crate::cache::Error;
use crate::store::Stores;
use crate::types::{Grant, Invalid, Scope};

const BUCKET: &str = "remora-bucket";
const PREFIX: &str = "remora-prefix";
const BLOBS_PREFIX: &str = "remora-blobs-prefix";
const MANIFESTS_PREFIX: &str = "remora-manifests-prefix";

/// A grant of everything in the scope that `metadata` names. Who reaches this endpoint is trusted with all
/// that the operator serves.
///
/// # Errors
/// `INVALID_ARGUMENT` for what is no bucket name or prefix, `PERMISSION_DENIED` for what is not served.
pub(super) fn grant(stores: &Stores, metadata: &MetadataMap) -> Result<Grant, Status> {
    let bucket = match text(metadata, BUCKET)? {
        Some(name) => name.parse().map_err(refuse)?,
        None => stores.default_bucket().clone(),
    };
    let served = stores.bucket(&bucket).map_err(denied)?;
    let scope = Scope::with_prefixes(
        bucket,
        text(metadata, PREFIX)?.unwrap_or(&served.prefix),
        text(metadata, BLOBS_PREFIX)?.unwrap_or(Scope::BLOBS_PREFIX),
        text(metadata, MANIFESTS_PREFIX)?.unwrap_or(Scope::MANIFESTS_PREFIX),
    )
    .map_err(refuse)?;
    stores.store(&scope).map_err(denied)?;
    Ok(Grant::operator(scope))
}

fn text<'a>(metadata: &'a MetadataMap, key: &'static str) -> Result<Option<&'a str>, Status> {
    let mut values = metadata.get_all(key).iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(value), None) => {
            value.to_str().map(Some).map_err(|_| Status::invalid_argument(format!("metadata {key}: want printable ASCII")))
        }
        (Some(_), Some(_)) => Err(Status::invalid_argument(format!("metadata {key}: given more than once"))),
    }
}

#[expect(clippy::needless_pass_by_value, reason = "for map_err")]
fn refuse(invalid: Invalid) -> Status {
    Status::invalid_argument(invalid.to_string())
}

fn denied(denied: crate::types::Denied) -> Status {
    from_error(&Error::from(denied))
}
