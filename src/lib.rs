//! remora: a sidecar that serves BuildKit's S3 build cache and keeps the credentials out of the builder.
//!
//! Layers, each using only those after it:
//! `cli` > `app` > `config` > `admin` > `endpoints` > `auth` > `cache` > `transfer` > `store` > `types`.
//! `metrics`, `shutdown` and `telemetry` are leaves that any of them may use. `proto` is for the endpoints alone.

pub mod admin;
pub mod app;
pub mod auth;
pub mod cache;
pub mod cli;
pub mod config;
pub mod endpoints;
pub mod metrics;
pub mod proto;
pub mod shutdown;
pub mod store;
pub mod telemetry;
pub mod transfer;
pub mod types;
