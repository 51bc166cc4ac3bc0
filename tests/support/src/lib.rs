//! Real parts of this machine for the tests and the benches: MinIO, processes, ports, disks, and a proxy that does
//! to S3's traffic what networks do.
//!
//! It knows nothing of remora, so a change of remora's own code does not build it again, and the two test binaries
//! and the benches share one build of it. What needs remora's types is in `tests/it/support` and
//! `tests/e2e/support`. Everything here may panic: that is how a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "how tests fail")]

pub mod buildkitd;
pub mod disk;
pub mod faults;
pub mod http;
pub mod minio;
pub mod ports;
pub mod process;
pub mod tools;
