//! Real parts, started in temp folders, and what the cases ask of them.

pub mod buildkitd;
pub mod cases;
pub mod chain;
pub mod client;
pub mod connections;
pub mod context;
pub mod credentials;
#[path = "../../it/support/disk.rs"]
pub mod disk;
pub mod engine;
#[path = "../../it/support/faults/mod.rs"]
pub mod faults;
pub mod footprint;
pub mod host;
pub mod image;
pub mod llb;
pub mod minio;
#[path = "../../it/support/ports.rs"]
pub mod ports;
pub mod process;
pub mod registry;
pub mod remora;
pub mod stages;
pub mod storage;
#[path = "../../it/support/tools.rs"]
pub mod tools;
