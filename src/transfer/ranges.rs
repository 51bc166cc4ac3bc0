//! Where the ranges lie in which a large object is read.

/// Bytes of one request. Ranges begin and end at multiples of this, like the parts that BuildKit and [`super::upload`] send:
/// S3 is fastest for a range that lies within one part.
pub const RANGE_BYTES: u64 = 8 << 20;

/// Where the range that holds the byte at `start` ends.
pub(super) fn range_end(start: u64) -> u64 {
    (start / RANGE_BYTES).saturating_add(1).saturating_mul(RANGE_BYTES)
}
