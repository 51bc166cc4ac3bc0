//! Conditional requests: `If-Match` and `If-None-Match`.

use s3s::dto::ETagCondition;
use s3s::{S3Error, S3ErrorCode, S3Result};

use crate::cache::Condition;
use crate::types::ETag;

/// Checks a read's conditions against the object's version.
pub(super) fn check_read(if_match: Option<&ETagCondition>, if_none_match: Option<&ETagCondition>, etag: &ETag) -> S3Result<()> {
    let matches = |condition: &ETagCondition| match condition {
        ETagCondition::Any => true,
        ETagCondition::ETag(wanted) => wanted.value() == etag.as_str(),
    };
    if if_match.is_some_and(|condition| !matches(condition)) {
        return Err(S3Error::with_message(S3ErrorCode::PreconditionFailed, format!("the object's etag is {etag}")));
    }
    if if_none_match.is_some_and(matches) {
        return Err(S3Error::new(S3ErrorCode::NotModified));
    }
    Ok(())
}

/// The condition of a write. As in S3, it can be `If-None-Match: *` or `If-Match: <etag>` and nothing else.
pub(super) fn of_write(if_match: Option<&ETagCondition>, if_none_match: Option<&ETagCondition>) -> S3Result<Condition> {
    match (if_match, if_none_match) {
        (None, None) => Ok(Condition::None),
        (None, Some(ETagCondition::Any)) => Ok(Condition::Absent),
        (Some(ETagCondition::ETag(etag)), None) => Ok(Condition::Matches(ETag::new(etag.value()))),
        _ => Err(S3Error::with_message(S3ErrorCode::NotImplemented, "want If-None-Match: * or If-Match with one etag")),
    }
}
