//! Real parts, started in temp folders, and what the cases ask of them.

pub mod admin;
pub mod cases;
pub mod chain;
pub mod client;
pub mod connections;
pub mod context;
pub mod credentials;
pub mod engine;
pub mod footprint;
pub mod host;
pub mod image;
pub mod llb;
pub mod registry;
pub mod remora;
pub mod stages;
pub mod storage;

pub use remora_test_support::{buildkitd, disk, faults, minio, ports, process, tools};
