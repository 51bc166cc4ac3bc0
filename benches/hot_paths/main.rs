//! `make bench-hot`: the paths that cost remora CPU for each byte or each call, one by one, without a network.
//!
//! For comparisons of one change with the version before it, on one machine: whole builds are what
//! `make bench` times. docs/performance.md says how to read it.
#![allow(missing_docs, reason = "criterion makes a public function of each group")]
#![allow(clippy::unwrap_used, reason = "a path that fails is no measurement")]

mod blobs;
mod control;
mod manifests;
mod one_blob;

use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};

fn settings() -> Criterion {
    Criterion::default().sample_size(20).warm_up_time(Duration::from_secs(1)).measurement_time(Duration::from_secs(4))
}

criterion_group! {
    name = hot_paths;
    config = settings();
    targets = control::session, control::calls, manifests::documents, manifests::conversion, blobs::reads, blobs::lookups
}
criterion_main!(hot_paths);
