//! What several tests need of remora's own types, and the real parts that all tests share.

pub(crate) mod cache;
pub(crate) mod documents;
pub(crate) mod fake_buildkitd;
pub mod fake_s3;
pub(crate) mod fault_store;
pub(crate) mod guarded;
pub(crate) mod log;
pub(crate) mod memory_store;
pub(crate) mod ranged_store;
pub(crate) mod s3_config;
pub(crate) mod settings;
pub(crate) mod sidecar;

pub(crate) use remora_test_support::{buildkitd, disk, faults, minio, ports, tools};
