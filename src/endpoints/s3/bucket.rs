//! Buckets: the bucket that the caller's key is for, and listings of its objects, as `aws s3 ls` asks for them.

use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Result};
use time::OffsetDateTime;

use crate::cache::ObjectInfo;
use crate::types::{Grant, percent_encoded};

use super::object::{quoted, signed};
use super::operations::Operations;

/// The most keys of one answer, as in S3, and of one call to the store.
const MAX_KEYS: i32 = 1000;
/// How many pages of the store one request may read. A listing that needs more goes on in the next request.
const MAX_PAGES: usize = 100;

/// What one answer of a listing shows.
#[derive(Default)]
struct Listing {
    objects: Vec<ObjectInfo>,
    common_prefixes: Vec<String>,
    /// Where the next answer begins; `None` at the end.
    next: Option<String>,
}

impl Listing {
    fn len(&self) -> usize {
        self.objects.len() + self.common_prefixes.len()
    }
}

impl Operations {
    pub(super) fn buckets(&self, grant: &Grant) -> ListBucketsOutput {
        let bucket = Bucket {
            name: Some(grant.scope().bucket().to_string()),
            // Not known, but the AWS command line does not print a bucket that has none.
            creation_date: Some(OffsetDateTime::UNIX_EPOCH.into()),
            ..Default::default()
        };
        ListBucketsOutput { buckets: Some(vec![bucket]), ..Default::default() }
    }

    pub(super) fn bucket(&self, grant: &Grant) -> S3Result<HeadBucketOutput> {
        let served = self.cache.stores().bucket(grant.scope().bucket())?;
        Ok(HeadBucketOutput { bucket_region: served.region, ..Default::default() })
    }

    pub(super) fn location(&self, grant: &Grant) -> S3Result<GetBucketLocationOutput> {
        let served = self.cache.stores().bucket(grant.scope().bucket())?;
        // S3's oldest region has no name in this answer.
        let region = served.region.filter(|region| region != "us-east-1");
        Ok(GetBucketLocationOutput { location_constraint: region.map(Into::into) })
    }

    pub(super) async fn list(&self, grant: &Grant, input: ListObjectsV2Input) -> S3Result<ListObjectsV2Output> {
        let max_keys = input.max_keys.unwrap_or(MAX_KEYS).clamp(0, MAX_KEYS);
        let after = match &input.continuation_token {
            Some(token) => Some(decode_token(token)?),
            None => input.start_after.clone(),
        };
        let prefix = input.prefix.as_deref().unwrap_or_default();
        let delimiter = input.delimiter.as_deref().filter(|delimiter| !delimiter.is_empty());
        let listing = self.walk(grant, prefix, delimiter, after, usize::try_from(max_keys).unwrap_or_default()).await?;

        let url = input.encoding_type.as_ref().is_some_and(|encoding| encoding.as_str() == EncodingType::URL);
        let encode = |text: String| if url { percent_encoded(&text) } else { text };
        let object = |found: ObjectInfo| Object {
            key: Some(encode(found.key)),
            size: Some(signed(found.size)),
            e_tag: Some(quoted(&found.etag)),
            last_modified: Some(found.modified.into()),
            storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
            ..Default::default()
        };
        Ok(ListObjectsV2Output {
            name: Some(input.bucket),
            key_count: i32::try_from(listing.len()).ok(),
            max_keys: Some(max_keys),
            is_truncated: Some(listing.next.is_some()),
            next_continuation_token: listing.next.map(hex::encode),
            continuation_token: input.continuation_token,
            contents: Some(listing.objects.into_iter().map(object).collect()),
            common_prefixes: Some(
                listing.common_prefixes.into_iter().map(|prefix| CommonPrefix { prefix: Some(encode(prefix)) }).collect(),
            ),
            prefix: Some(encode(input.prefix.unwrap_or_default())),
            delimiter: input.delimiter.map(&encode),
            start_after: input.start_after.map(&encode),
            encoding_type: input.encoding_type,
            ..Default::default()
        })
    }

    async fn walk(
        &self,
        grant: &Grant,
        prefix: &str,
        delimiter: Option<&str>,
        mut after: Option<String>,
        max_keys: usize,
    ) -> S3Result<Listing> {
        let mut listing = Listing::default();
        if max_keys == 0 {
            grant.check(crate::types::Right::Read)?;
            return Ok(listing);
        }
        for _ in 0..MAX_PAGES {
            let page = self.cache.list_objects(grant, prefix, after.as_deref(), 1000).await?;
            for object in page.objects {
                if listing.common_prefixes.last().is_some_and(|common| object.key.starts_with(common)) {
                    continue;
                }
                if listing.len() == max_keys {
                    listing.next = after;
                    return Ok(listing);
                }
                match common_prefix(&object.key, prefix, delimiter) {
                    Some(common) => {
                        after = Some(end_of(common));
                        listing.common_prefixes.push(common.to_owned());
                    }
                    None => {
                        after = Some(object.key.clone());
                        listing.objects.push(object);
                    }
                }
            }
            match page.next {
                None => return Ok(listing),
                // Skips the remaining keys of a common prefix.
                Some(next) => after = after.filter(|jump| *jump > next).or(Some(next)),
            }
        }
        listing.next = after;
        Ok(listing)
    }
}

/// The part of `key` up to the first delimiter behind `prefix`.
fn common_prefix<'key>(key: &'key str, prefix: &str, delimiter: Option<&str>) -> Option<&'key str> {
    let delimiter = delimiter?;
    let at = key.get(prefix.len()..)?.find(delimiter)?;
    key.get(..prefix.len() + at + delimiter.len())
}

/// A key behind every key that begins with `prefix`: no key has this character, which is the last of all.
fn end_of(prefix: &str) -> String {
    format!("{prefix}{}", char::MAX)
}

fn decode_token(token: &str) -> S3Result<String> {
    let text = hex::decode(token).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    text.ok_or_else(|| S3Error::with_message(S3ErrorCode::InvalidArgument, "the continuation token is not one of ours"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn common_prefixes_end_at_the_first_delimiter_behind_the_prefix() {
        assert_eq!(common_prefix("a/b/c", "", Some("/")), Some("a/"));
        assert_eq!(common_prefix("a/b/c", "a/", Some("/")), Some("a/b/"));
        assert_eq!(common_prefix("a/b/c", "a/b/", Some("/")), None);
        assert_eq!(common_prefix("a/b/c", "a", Some("/")), Some("a/"));
        assert_eq!(common_prefix("a/b/c", "", None), None);
        assert!(*end_of("a/") > *"a/\u{1F600}" && *end_of("a/") < *"a0");
    }
}
