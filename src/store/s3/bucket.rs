//! A bucket in S3 and its client, and what many requests have in common.

use std::fmt;

use aws_sdk_s3::Client;
use aws_sdk_s3::operation::complete_multipart_upload::CompleteMultipartUploadOutput;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};

use super::config::S3Config;
use super::credentials::RenewedCredentials;
use super::error::refusal;
use crate::store::{Condition, Error, MultipartId, Result};
use crate::types::Key;

/// A bucket in S3.
pub struct S3 {
    pub(super) client: Client,
    pub(super) config: S3Config,
    pub(super) region: String,
    /// `None` where the AWS environment has no provider at all.
    pub(super) credentials: Option<RenewedCredentials>,
}

impl fmt::Debug for S3 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("S3").field("config", &self.config).field("region", &self.region).finish_non_exhaustive()
    }
}

/// Begins a request for one object. A macro, because the SDK's requests have the same methods but no common trait.
macro_rules! on_object {
    ($s3:expr, $operation:ident, $key:expr) => {
        $s3.client.$operation().bucket($s3.bucket()).key($key.as_str()).set_expected_bucket_owner($s3.owner())
    };
}
pub(super) use on_object;

/// Sets what every new object gets: encryption, storage class, ACL. A macro for the same reason.
macro_rules! for_new_object {
    ($request:expr, $config:expr) => {{
        let config: &$crate::store::S3Config = &$config;
        let (encryption, kms_key) = match &config.sse {
            None => (None, None),
            Some($crate::store::ServerSideEncryption::S3Managed) => (Some(aws_sdk_s3::types::ServerSideEncryption::Aes256), None),
            Some($crate::store::ServerSideEncryption::Kms(key)) => (Some(aws_sdk_s3::types::ServerSideEncryption::AwsKms), key.clone()),
        };
        $request
            .set_server_side_encryption(encryption)
            .set_ssekms_key_id(kms_key)
            .set_storage_class(config.storage_class.as_deref().map(Into::into))
            .set_acl(config.acl.as_deref().map(Into::into))
    }};
}
pub(super) use for_new_object;

impl S3 {
    /// The region in use, be it configured or found in the AWS environment or profile.
    #[must_use]
    pub fn region(&self) -> Option<&str> {
        Some(&self.region)
    }

    pub(super) fn bucket(&self) -> &str {
        self.config.bucket.as_str()
    }

    pub(super) fn owner(&self) -> Option<String> {
        self.config.expected_bucket_owner.clone()
    }

    /// Joins parts to an object; `action` is for the error.
    pub(super) async fn join(
        &self,
        action: &str,
        key: &Key,
        id: &MultipartId,
        parts: Vec<CompletedPart>,
        condition: &Condition,
    ) -> Result<CompleteMultipartUploadOutput> {
        let complete = on_object!(self, complete_multipart_upload, key)
            .upload_id(&id.0)
            .set_if_none_match(if_none_match(condition))
            .set_if_match(if_match(condition))
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build());
        let joined = complete.send().await;
        joined.map_err(|error| conditional(condition, key, refusal(action, key.as_str(), error)))
    }
}

pub(super) fn if_none_match(condition: &Condition) -> Option<String> {
    (*condition == Condition::Absent).then(|| "*".to_owned())
}

pub(super) fn if_match(condition: &Condition) -> Option<String> {
    match condition {
        Condition::Matches(version) => Some(version.quoted()),
        Condition::None | Condition::Absent => None,
    }
}

/// S3 answers a conditional write over an object that is gone with 404 `NoSuchKey`.
pub(super) fn conditional(condition: &Condition, key: &Key, error: Error) -> Error {
    match (condition, error) {
        (Condition::Matches(_), Error::NotFound(what)) if what.contains("NoSuchKey") => Error::Precondition(key.to_string()),
        (_, error) => error,
    }
}
