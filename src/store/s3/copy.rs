//! Touch. S3 has no such call, so an object is copied onto itself, as BuildKit's own client does.

use aws_sdk_s3::types::{CompletedPart, MetadataDirective};
use futures_util::{StreamExt as _, TryStreamExt as _, stream};

use super::answer::unanswered;
use super::bucket::{S3, for_new_object, on_object};
use super::error::refusal;
use crate::store::{Condition, Error, Meta, MultipartId, Result, Store as _};
use crate::types::{ByteRange, Key, percent_encoded};

/// The largest object that one `CopyObject` takes (S3 API reference: 5 GiB).
const MAX_COPY_BYTES: u64 = 5 << 30;
/// Bytes of one copied part. S3 takes up to 5 GiB, but smaller parts can be copied side by side.
const PART_BYTES: u64 = 1 << 30;
/// Parts of one object that are copied at once.
const PARTS_AT_ONCE: usize = 4;

impl S3 {
    /// Copies an object onto itself, which S3 allows only where something about it is replaced.
    pub(super) async fn copy_onto_itself(&self, key: &Key) -> Result<()> {
        let copy = for_new_object!(on_object!(self, copy_object, key), self.config)
            .set_expected_source_bucket_owner(self.owner())
            .copy_source(self.copy_source(key))
            .metadata_directive(MetadataDirective::Replace);
        let copied = copy.send().await;
        match copied.map_err(|error| refusal("copy", key.as_str(), error)) {
            Ok(_) => Ok(()),
            // The object may be too large. Its size is looked up only now, so that an ordinary touch is one call.
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
        self.join("complete copy of", key, id, parts, &Condition::None).await.map(drop)
    }

    async fn copy_part(&self, key: &Key, meta: &Meta, id: &MultipartId, number: i32, range: ByteRange) -> Result<CompletedPart> {
        let copy = on_object!(self, upload_part_copy, key)
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
        format!("{}/{}", self.bucket(), percent_encoded(key.as_str()))
    }
}
