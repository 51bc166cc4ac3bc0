//! The bodies that are sent to S3 and read from it.

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::{ByteStream as Sent, Length};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};

use super::answer::{etag, meta, unanswered};
use super::error::causes;
use crate::store::contract::cut_to_object;
use crate::store::{Body, ByteStream, Error, Object, Result};
use crate::types::{ByteRange, Key};

/// Bytes of one read of a file that is sent.
const READ_BYTES: usize = 256 << 10;

/// The body as the SDK takes it. It can be sent again.
pub(super) async fn send(body: Body) -> Result<Sent> {
    match body {
        Body::Bytes(bytes) => Ok(bytes.into()),
        Body::File { path, offset, len } => {
            let file = Sent::read_from().path(&path).offset(offset).length(Length::Exact(len)).buffer_size(READ_BYTES);
            file.build().await.map_err(|error| Error::Invalid(format!("cannot send {}: {}", path.display(), causes(&error))))
        }
    }
}

/// The range as a header. S3 servers parse offsets as signed numbers, so an end beyond those is left open.
pub(super) fn range_header(range: ByteRange) -> String {
    if i64::try_from(range.end()).is_ok() { range.to_header() } else { format!("bytes={}-", range.start()) }
}

/// The object in an answer to a GET of `wanted`. A store may ignore the range and answer with the whole object.
pub(super) fn object(key: &Key, wanted: Option<ByteRange>, answer: GetObjectOutput) -> Result<Object> {
    let (begin, size) = match &answer.content_range {
        Some(text) => {
            let (begin, size) = content_range(text).ok_or_else(|| unanswered(key.as_str(), "Content-Range"))?;
            (begin, Some(size))
        }
        None => (0, answer.content_length),
    };
    let meta = meta(key.as_str(), size, Some(etag(key.as_str(), answer.e_tag.as_deref())?.as_str()), answer.last_modified.as_ref())?;
    let range = cut_to_object(key, wanted, meta.size)?;
    let (start, len) = range.map_or((0, 0), |range| (range.start(), range.len()));
    let skip = start.checked_sub(begin).ok_or_else(|| unanswered(key.as_str(), "Content-Range"))?;
    Ok(Object { meta, range, body: exactly(key.to_string(), answer.body, skip, len) })
}

/// The first byte and the whole size in `bytes 0-9/100`.
fn content_range(text: &str) -> Option<(u64, i64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    Some((range.split_once('-')?.0.parse().ok()?, size.parse().ok()?))
}

/// The `len` bytes that follow the first `skip` bytes, or an error.
fn exactly(key: String, body: Sent, skip: u64, len: u64) -> ByteStream {
    stream::try_unfold((key, body, skip, len), |(key, mut body, mut skip, mut left)| async move {
        while left > 0 {
            let mut chunk = match body.next().await {
                Some(Ok(chunk)) => chunk,
                Some(Err(error)) => return Err(Error::Unavailable(format!("reading {key:?} broke off: {}", causes(&error)))),
                None => return Err(Error::Unavailable(format!("reading {key:?} ended {left} bytes early"))),
            };
            // Skips what comes before the range.
            drop(split_to(&mut chunk, skip, |wanted| skip = wanted));
            let chunk = split_to(&mut chunk, left, |wanted| left = wanted);
            if !chunk.is_empty() {
                return Ok(Some((chunk, (key, body, skip, left))));
            }
        }
        Ok(None)
    })
    .boxed()
}

/// Takes up to `want` bytes off the front and reports how many are still wanted.
fn split_to(chunk: &mut Bytes, want: u64, still: impl FnOnce(u64)) -> Bytes {
    let count = usize::try_from(want).map_or(chunk.len(), |want| want.min(chunk.len()));
    still(want - count as u64);
    chunk.split_to(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(body: &'static [u8], skip: u64, len: u64) -> Result<Vec<u8>> {
        let pieces: Vec<Result<Bytes>> = exactly("key".to_owned(), Sent::from_static(body), skip, len).collect().await;
        pieces.into_iter().collect::<Result<Vec<Bytes>>>().map(|pieces| pieces.concat())
    }

    #[tokio::test]
    async fn a_body_is_cut_to_its_range_and_a_short_one_is_an_error() {
        assert_eq!(read(b"0123456789", 0, 10).await.unwrap(), b"0123456789");
        assert_eq!(read(b"0123456789", 3, 4).await.unwrap(), b"3456");
        assert_eq!(read(b"", 0, 0).await.unwrap(), b"");
        assert!(matches!(read(b"0123", 0, 5).await, Err(Error::Unavailable(_))));
        assert!(matches!(read(b"0123", 3, 2).await, Err(Error::Unavailable(_))));
    }

    #[tokio::test]
    async fn a_store_that_ignores_ranges_is_read_all_the_same() {
        let answer = GetObjectOutput::builder()
            .content_length(10)
            .e_tag("\"tag\"")
            .last_modified(aws_sdk_s3::primitives::DateTime::from_secs(1))
            .body(Sent::from_static(b"0123456789"))
            .build();
        let object = object(&Key::new("", "key"), ByteRange::new(8, 20), answer).unwrap();
        assert_eq!((object.meta.size, object.range), (10, ByteRange::new(8, 10)));
        let pieces: Vec<_> = object.body.collect().await;
        assert_eq!(pieces[0].as_deref().unwrap(), b"89");
    }

    #[test]
    fn content_range_is_parsed_or_refused() {
        assert_eq!(content_range("bytes 5-9/100"), Some((5, 100)));
        for bad in ["", "bytes */100", "bytes 5-9/*", "5-9/100", "bytes 5/100"] {
            assert_eq!(content_range(bad), None, "{bad}");
        }
    }
}
