//! Uploads: one put, or parts in parallel.

use futures_util::{StreamExt, TryStreamExt, stream};

use crate::store::{Body, Condition, MultipartId, Part, Result, Store};
use crate::types::{ETag, Key};

/// Bodies up to this size go in one request.
const SINGLE_PUT_BYTES: u64 = 16 << 20;
/// Bytes of a part; more where the object would have more than [`MAX_PARTS`].
const PART_BYTES: u64 = 8 << 20;
/// S3's bound.
const MAX_PARTS: u64 = 10_000;
/// Parts of one object in flight.
const PARTS_AT_ONCE: usize = 6;

/// Stores `body` under `key`: as atomic and durable as [`Store::put`], whatever its size.
///
/// # Errors
/// Those of the store; nothing is left behind then.
pub async fn upload(store: &dyn Store, key: &Key, body: Body, condition: Condition) -> Result<ETag> {
    match body {
        Body::File { path, offset, len } if len > SINGLE_PUT_BYTES && store.gains_by_parts() => {
            let id = store.begin_multipart(key).await?;
            let part = |number: u64| {
                let start = number * part_bytes(len);
                Body::File { path: path.clone(), offset: offset + start, len: part_bytes(len).min(len - start) }
            };
            let bodies: Vec<Body> = (0..len.div_ceil(part_bytes(len))).map(part).collect();
            let sent = send_parts(store, key, &id, bodies, condition).await;
            if sent.is_err()
                && let Err(error) = store.abort_multipart(key, &id).await
            {
                tracing::warn!(object.key = key.as_str(), %error, "could not abort a multipart upload; the bucket's lifecycle rules must");
            }
            sent
        }
        body => store.put(key, body, condition).await,
    }
}

fn part_bytes(len: u64) -> u64 {
    PART_BYTES.max(len.div_ceil(MAX_PARTS))
}

async fn send_parts(store: &dyn Store, key: &Key, id: &MultipartId, bodies: Vec<Body>, condition: Condition) -> Result<ETag> {
    let sends = (1..).zip(bodies).map(|(number, body)| store.put_part(key, id, number, body));
    let parts: Vec<Part> = stream::iter(sends).buffered(PARTS_AT_ONCE).try_collect().await?;
    store.complete_multipart(key, id, &parts, condition).await
}
