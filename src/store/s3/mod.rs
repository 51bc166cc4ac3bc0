//! A bucket in S3, through aws-sdk-s3. Each call is one request, made once and without a deadline: deadlines and retries are
//! for [`Guarded`](super::Guarded) to add.
//!
//! [`connect`] makes the client, [`error`] turns what the SDK reports into the store's errors, [`copy`] is touch, [`body`]
//! sends and reads the bytes, and [`credentials`] keeps the credentials fresh.

mod answer;
mod body;
mod bucket;
mod config;
mod connect;
mod copy;
mod credentials;
mod error;

use async_trait::async_trait;
use aws_sdk_s3::types::CompletedPart;
use time::OffsetDateTime;

use self::answer::{etag, meta, unanswered};
pub use self::bucket::S3;
use self::bucket::{conditional, for_new_object, if_match, if_none_match, on_object};
pub use self::config::{Checksums, Credentials, S3Config, ServerSideEncryption};
use self::error::refusal;
use super::{Body, Condition, Error, Meta, MultipartId, Object, Page, Part, RemoteStore, Result, Store};
use crate::types::{ByteRange, ETag, Key};

#[async_trait]
impl Store for S3 {
    fn url(&self) -> String {
        format!("s3://{}", self.bucket())
    }

    async fn head(&self, key: &Key) -> Result<Meta> {
        let found = on_object!(self, head_object, key).send().await.map_err(|error| refusal("HEAD", key.as_str(), error))?;
        meta(key.as_str(), found.content_length, found.e_tag.as_deref(), found.last_modified.as_ref())
    }

    async fn get(&self, key: &Key, range: Option<ByteRange>, version: Option<&ETag>) -> Result<Object> {
        let get = on_object!(self, get_object, key).set_range(range.map(body::range_header)).set_if_match(version.map(ETag::quoted));
        body::object(key, range, get.send().await.map_err(|error| refusal("GET", key.as_str(), error))?)
    }

    async fn put(&self, key: &Key, body: Body, condition: Condition) -> Result<ETag> {
        let put = for_new_object!(on_object!(self, put_object, key), self.config)
            .set_if_none_match(if_none_match(&condition))
            .set_if_match(if_match(&condition))
            .body(body::send(body).await?);
        let stored = put.send().await;
        let stored = stored.map_err(|error| conditional(&condition, key, refusal("PUT", key.as_str(), error)))?;
        etag(key.as_str(), stored.e_tag.as_deref())
    }

    async fn begin_multipart(&self, key: &Key) -> Result<MultipartId> {
        let begin = for_new_object!(on_object!(self, create_multipart_upload, key), self.config);
        let begun = begin.send().await.map_err(|error| refusal("begin multipart upload of", key.as_str(), error))?;
        begun.upload_id.map(MultipartId).ok_or_else(|| unanswered(key.as_str(), "upload id"))
    }

    async fn put_part(&self, key: &Key, id: &MultipartId, number: u16, body: Body) -> Result<Part> {
        let put = on_object!(self, upload_part, key).upload_id(&id.0).part_number(number.into()).body(body::send(body).await?);
        // To sign the bytes, they would have to be hashed once more, and a blob's digest already says what they must be.
        let stored = put.customize().disable_payload_signing().send().await;
        let stored = stored.map_err(|error| refusal("PUT part of", key.as_str(), error))?;
        Ok(Part { number, etag: etag(key.as_str(), stored.e_tag.as_deref())? })
    }

    async fn complete_multipart(&self, key: &Key, id: &MultipartId, parts: &[Part], condition: Condition) -> Result<ETag> {
        if parts.is_empty() {
            return Err(Error::Invalid(format!("parts of {key}: want at least one")));
        }
        let each = parts.iter().map(|part| CompletedPart::builder().part_number(part.number.into()).e_tag(part.etag.quoted()).build());
        let joined = self.join("complete multipart upload of", key, id, each.collect(), &condition).await?;
        etag(key.as_str(), joined.e_tag.as_deref())
    }

    async fn abort_multipart(&self, key: &Key, id: &MultipartId) -> Result<()> {
        let abort = on_object!(self, abort_multipart_upload, key).upload_id(&id.0);
        match abort.send().await.map_err(|error| refusal("abort multipart upload of", key.as_str(), error)) {
            Ok(_) | Err(Error::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn list_multipart(&self, key: &Key) -> Result<Vec<(MultipartId, OffsetDateTime)>> {
        // The uploads of the key itself are listed before those of longer keys, so one page is enough.
        let list = self.client.list_multipart_uploads().bucket(self.bucket()).prefix(key.as_str()).set_expected_bucket_owner(self.owner());
        let listed = list.send().await.map_err(|error| refusal("list multipart uploads of", key.as_str(), error))?;
        let of_key = listed.uploads.unwrap_or_default().into_iter().filter(|upload| upload.key.as_deref() == Some(key.as_str()));
        let each = of_key.map(|upload| {
            let begun = upload.initiated.and_then(|time| OffsetDateTime::from_unix_timestamp(time.secs()).ok());
            let id = upload.upload_id.ok_or_else(|| unanswered(key.as_str(), "upload id"))?;
            Ok((MultipartId(id), begun.ok_or_else(|| unanswered(key.as_str(), "Initiated"))?))
        });
        each.collect()
    }

    async fn touch(&self, key: &Key) -> Result<()> {
        self.copy_onto_itself(key).await
    }

    async fn delete(&self, key: &Key) -> Result<()> {
        match on_object!(self, delete_object, key).send().await.map_err(|error| refusal("DELETE", key.as_str(), error)) {
            Ok(_) | Err(Error::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Page> {
        let list = self
            .client
            .list_objects_v2()
            .bucket(self.bucket())
            .set_expected_bucket_owner(self.owner())
            .prefix(prefix)
            .set_start_after(after.map(str::to_owned))
            .max_keys(i32::try_from(limit).unwrap_or(1000));
        let listed = list.send().await.map_err(|error| refusal("list", prefix, error))?;
        let entries = listed.contents.unwrap_or_default().into_iter().map(|object| {
            let key = object.key.ok_or_else(|| unanswered(prefix, "key"))?;
            let meta = meta(&key, object.size, object.e_tag.as_deref(), object.last_modified.as_ref())?;
            Ok((key, meta))
        });
        Ok(Page { entries: entries.collect::<Result<_>>()?, more: listed.is_truncated.unwrap_or(false) })
    }

    fn prefers_multipart(&self) -> bool {
        true
    }
}

#[async_trait]
impl RemoteStore for S3 {
    async fn refresh_credentials_after(&self, refusal: &Error) -> bool {
        // The SDK has learned from the refusal how far the store's clock is off.
        if refusal.to_string().contains("RequestTimeTooSkewed") {
            return true;
        }
        match &self.credentials {
            Some(credentials) => credentials.renew().await,
            None => false,
        }
    }
}
