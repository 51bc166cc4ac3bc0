//! remora end to end: real buildkitd, buildctl, buildx, MinIO and Docker Engine.
//!
//! Everything runs in temp folders and ends with the test process. It needs root, and the tools that
//! `scripts/tools.sh` fetches.
#![allow(unreachable_pub, reason = "modules of one test binary")]
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::print_stderr, reason = "how tests fail")]

mod attacks;
mod chaos;
mod connections;
mod crashes;
mod deploy;
mod disk_cache;
mod durability;
mod faults;
mod forwarding;
mod grants;
mod interop;
mod large;
mod load;
mod manifests;
mod matrix;
mod options;
mod outage;
mod progress;
mod rebuild;
mod replay;
mod secrets;
mod sigterm;
mod soak;
mod support;
