//! The cache below its endpoints: what becomes visible when, what it costs, and what is left behind.

mod disk;
mod document;
mod ingests;
mod journal;
mod known;
mod manifests;
mod outage;
mod read;
mod uploads;
mod visibility;

use remora::cache::Settings;

use crate::support::cache::{self as support, Fixture};

/// Room for blobs of many parts.
fn for_large_blobs(settings: &mut Settings) {
    settings.max_manifest_bytes = 32 << 20;
    settings.max_open_ingests = 8;
    settings.transfer_memory = 128 << 20;
}

/// A cache with such room.
async fn roomy() -> Fixture {
    Fixture::new(for_large_blobs).await
}

/// The bytes of a blob.
fn content(len: usize) -> Vec<u8> {
    support::content(len, 0)
}
