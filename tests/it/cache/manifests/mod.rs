//! Manifests as builds get and put them: without what is lost, merged with what others put.

mod export;
mod import;
mod promises;

use crate::support::cache::{Fixture, blob_key};
use crate::support::documents::digest;

/// Puts a stand-in for the blob that has this name into the bucket.
fn plant(fixture: &Fixture, blob: &str) {
    fixture.plant_stand_in(&digest(blob));
}

fn key(blob: &str) -> String {
    blob_key(&digest(blob))
}
