//! Touch: S3 has no such call, so an object is copied onto itself, as BuildKit's own client does.

use std::fmt::Write as _;

use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart, MetadataDirective};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::error::{refusal, unanswered};
use super::{S3, S3Config, ServerSideEncryption, for_new_object};
use crate::store::{Error, Meta, MultipartId, Result, Store as _};
use crate::types::{ByteRange, Key};

/// The largest object that one `CopyObject` takes (S3 API reference: 5 GiB).
const MAX_COPY_BYTES: u64 = 5 << 30;
/// Bytes of one copied part: S3 takes up to 5 GiB, smaller ones run side by side.
const PART_BYTES: u64 = 1 << 30;
/// Parts of one object that are copied at once.
const PARTS_AT_ONCE: usize = 4;

impl S3 {
    /// Copies an object onto itself, which S3 allows only where something about it is replaced.
    pub(super) async fn copy_onto_itself(&self, key: &Key) -> Result<()> {
        let copy = for_new_object!(self.client.copy_object(), self.config)
            .bucket(self.bucket())
            .key(key.as_str())
            .set_expected_bucket_owner(self.owner())
            .set_expected_source_bucket_owner(self.owner())
            .copy_source(self.copy_source(key))
            .metadata_directive(MetadataDirective::Replace);
        let copied = copy.send().await;
        match copied.map_err(|error| refusal("copy", key.as_str(), error)) {
            Ok(_) => Ok(()),
            // Too large, perhaps: the size is asked for only now, so that a touch is one call.
            Err(Error::Invalid(why)) => match self.head(key).await? {
                meta if meta.size > MAX_COPY_BYTES => self.copy_in_parts(key, &meta).await,
                _ => Err(Error::Invalid(why)),
            },
            Err(error) => Err(error),
        }
    }

    async fn copy_in_parts(&self, key: &Key, meta: &Meta) -> Result<()> {
        let id = self.begin_multipart(key).await?;
        let copied = self.copy_parts(key, meta, &id).await;
        if copied.is_err()
            && let Err(error) = self.abort_multipart(key, &id).await
        {
            tracing::warn!(object.key = key.as_str(), %error, "could not abort a multipart copy; the bucket's lifecycle rules must");
        }
        copied
    }

    async fn copy_parts(&self, key: &Key, meta: &Meta, id: &MultipartId) -> Result<()> {
        let ranges = (0..meta.size.div_ceil(PART_BYTES)).filter_map(|part| {
            let start = part * PART_BYTES;
            ByteRange::new(start, meta.size.min(start + PART_BYTES))
        });
        let copies = (1..).zip(ranges).map(|(number, range)| self.copy_part(key, meta, id, number, range));
        let parts: Vec<CompletedPart> = stream::iter(copies).buffered(PARTS_AT_ONCE).try_collect().await?;
        let complete = self
            .client
            .complete_multipart_upload()
            .bucket(self.bucket())
            .key(key.as_str())
            .set_expected_bucket_owner(self.owner())
            .upload_id(&id.0)
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build());
        let joined = complete.send().await;
        joined.map(drop).map_err(|error| refusal("complete copy of", key.as_str(), error))
    }

    async fn copy_part(&self, key: &Key, meta: &Meta, id: &MultipartId, number: i32, range: ByteRange) -> Result<CompletedPart> {
        let copy = self
            .client
            .upload_part_copy()
            .bucket(self.bucket())
            .key(key.as_str())
            .set_expected_bucket_owner(self.owner())
            .set_expected_source_bucket_owner(self.owner())
            .upload_id(&id.0)
            .part_number(number)
            .copy_source(self.copy_source(key))
            .copy_source_range(range.to_header())
            .copy_source_if_match(meta.etag.quoted());
        let copied = copy.send().await;
        let copied = copied.map_err(|error| refusal("copy part of", key.as_str(), error))?;
        let etag = copied.copy_part_result.and_then(|part| part.e_tag).ok_or_else(|| unanswered(key.as_str(), "ETag"))?;
        Ok(CompletedPart::builder().part_number(number).e_tag(etag).build())
    }

    /// `bucket/key`, percent-encoded, because it travels in a header.
    fn copy_source(&self, key: &Key) -> String {
        let mut source = format!("{}/", self.bucket());
        for byte in key.as_str().bytes() {
            if byte.is_ascii_alphanumeric() || b"-._~/".contains(&byte) {
                source.push(byte.into());
            } else {
                let _ = write!(source, "%{byte:02X}");
            }
        }
        source
    }
}
