//! What several tests need.

pub(crate) mod buildkitd;
pub(crate) mod disk;
pub mod fake_s3;
pub(crate) mod fault_store;
pub mod faults;
pub(crate) mod log;
pub(crate) mod memory_store;
pub mod minio;
pub(crate) mod ports;
pub(crate) mod ranged_store;
pub(crate) mod settings;
pub(crate) mod sidecar;
pub mod tools;
