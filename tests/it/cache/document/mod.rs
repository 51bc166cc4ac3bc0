//! The cache config as data: what is read and written, what a merge of two keeps, and what is left without lost blobs.

mod arbitrary;
mod cache_config;
mod merge;
mod merging;
mod strip;

use remora::cache::MergeLimits;
use time::OffsetDateTime;

/// Limits that no test comes near.
fn no_limits() -> MergeLimits {
    MergeLimits { max_generations: 100, max_records: 1000, max_bytes: 1 << 20, oldest: OffsetDateTime::UNIX_EPOCH }
}
