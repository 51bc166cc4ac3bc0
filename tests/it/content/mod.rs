//! The content endpoint: containerd's own suite, and every status code through a gRPC client.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "tests")]

mod blobs;
mod manifests;
mod sidecar;
mod suite;
mod surface;
