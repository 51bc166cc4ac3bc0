//! Multipart uploads of clients: Create, UploadPart, UploadPartCopy of the object itself, Complete, Abort, ListParts.

use s3s::dto::*;
use s3s::{S3Error, S3ErrorCode, S3Result};

use crate::cache::layout::Item;
use crate::cache::{self, NewPart, UploadId};
use crate::types::{self, Grant};

use super::condition;
use super::object::{body_size, etag_of, quoted, signed, too_large};
use super::operations::Operations;
use super::request_body::RequestBody;
use super::target::Target;

/// The most parts of one upload, as in S3.
const MAX_PARTS: i32 = 10_000;

impl Operations {
    pub(super) async fn create_upload(&self, grant: &Grant, input: CreateMultipartUploadInput) -> S3Result<CreateMultipartUploadOutput> {
        let target = Target::to_write(grant, &input.key)?;
        let begun = self.cache.tolerant().begin_upload(&target.grant, target.item).await?;
        let id = begun.stored().unwrap_or_else(|| UploadId::new("dropped"));
        Ok(CreateMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(id.to_string()),
            ..Default::default()
        })
    }

    pub(super) async fn part(&self, grant: &Grant, input: UploadPartInput, sent: RequestBody) -> S3Result<UploadPartOutput> {
        let Target { grant, item } = Target::to_write(grant, &input.key)?;
        let (number, size) = (part_number(input.part_number)?, body_size(input.content_length)?);
        self.cache.tolerant().admit_part(&grant, &item, size).map_err(too_large)?;
        let body = match &item {
            Item::Blob(_) => sent.body,
            Item::Manifest(_) => sent.checked(),
        };
        let id = UploadId::new(&input.upload_id);
        let sent = self.cache.tolerant().take_part(&grant, &item, &id, NewPart { number, size, body }).await;
        let etag = etag_of(sent.map_err(of_upload)?);
        Ok(UploadPartOutput { e_tag: Some(quoted(&etag)), ..Default::default() })
    }

    pub(super) fn part_copy(&self, grant: &Grant, input: &UploadPartCopyInput) -> S3Result<UploadPartCopyOutput> {
        let Target { grant, item } = Target::to_write(grant, &input.key)?;
        Target::check_copy(&input.copy_source, &input.bucket, &input.key)?;
        let (id, number) = (UploadId::new(&input.upload_id), part_number(input.part_number)?);
        let etag = self.cache.uploads().take_part_of_itself(&grant, &item, &id, number).map_err(of_upload)?;
        let result = CopyPartResult {
            e_tag: Some(quoted(&etag)),
            last_modified: Some(time::OffsetDateTime::now_utc().into()),
            ..Default::default()
        };
        Ok(UploadPartCopyOutput { copy_part_result: Some(result), ..Default::default() })
    }

    pub(super) async fn complete_upload(
        &self,
        grant: &Grant,
        input: CompleteMultipartUploadInput,
    ) -> S3Result<CompleteMultipartUploadOutput> {
        let target = Target::to_write(grant, &input.key)?;
        let (grant, item) = (&target.grant, &target.item);
        let condition = condition::of_write(input.if_match.as_ref(), input.if_none_match.as_ref())?;
        let id = UploadId::new(&input.upload_id);
        let parts = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        let parts = parts.into_iter().map(named_part).collect::<S3Result<Vec<_>>>()?;
        let numbers: Vec<u16> = parts.iter().map(|(number, _)| *number).collect();
        let tolerant = self.cache.tolerant();
        tolerant.admit_parts(grant, item, &id, &numbers).map_err(|error| match error {
            cache::Error::Exhausted(_) => too_large(error),
            other => of_upload(other),
        })?;
        let stored = tolerant.complete_upload(grant, item, &id, &parts, condition).await;
        let etag = etag_of(stored.map_err(of_upload)?);
        Ok(CompleteMultipartUploadOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            e_tag: Some(quoted(&etag)),
            ..Default::default()
        })
    }

    pub(super) async fn abort_upload(&self, grant: &Grant, input: &AbortMultipartUploadInput) -> S3Result<()> {
        let Target { grant, item } = Target::to_write(grant, &input.key)?;
        self.cache.uploads().abort(&grant, &item, &UploadId::new(&input.upload_id)).await.map_err(of_upload)
    }

    pub(super) fn parts(&self, grant: &Grant, input: ListPartsInput) -> S3Result<ListPartsOutput> {
        let Target { grant, item } = Target::to_write(grant, &input.key)?;
        let sent = self.cache.uploads().parts(&grant, &item, &UploadId::new(&input.upload_id)).map_err(of_upload)?;
        let part = |sent: cache::UploadedPart| Part {
            part_number: Some(sent.number.into()),
            e_tag: Some(quoted(&sent.etag)),
            size: Some(signed(sent.size)),
            ..Default::default()
        };
        let behind = input.part_number_marker.unwrap_or_default();
        Ok(ListPartsOutput {
            bucket: Some(input.bucket),
            key: Some(input.key),
            upload_id: Some(input.upload_id),
            // All parts are in one answer: there are never more than a client can take.
            is_truncated: Some(false),
            parts: Some(sent.into_iter().filter(|sent| i32::from(sent.number) > behind).map(part).collect()),
            ..Default::default()
        })
    }
}

fn part_number(number: PartNumber) -> S3Result<u16> {
    let valid = u16::try_from(number).ok().filter(|_| (1..=MAX_PARTS).contains(&number));
    valid.ok_or_else(|| S3Error::with_message(S3ErrorCode::InvalidArgument, format!("part number {number}: want 1 to {MAX_PARTS}")))
}

fn named_part(part: CompletedPart) -> S3Result<(u16, types::ETag)> {
    match (part.part_number, part.e_tag) {
        (Some(number), Some(etag)) => Ok((part_number(number)?, types::ETag::new(etag.value()))),
        _ => Err(S3Error::with_message(S3ErrorCode::InvalidPart, "each part needs its number and its etag")),
    }
}

/// The error of a call for an upload. S3 has a code of its own for an upload that does not exist.
fn of_upload(error: cache::Error) -> S3Error {
    let missing = matches!(error, cache::Error::NotFound(_));
    let mut error = S3Error::from(error);
    if missing {
        error.set_code(S3ErrorCode::NoSuchUpload);
    }
    error
}
