//! Tests of the library's parts over real sockets, with real parts where one exists.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    unreachable_pub,
    reason = "in the tests' own helpers too"
)]

mod admin;
mod architecture;
mod bounds;
mod cache;
mod cache_config;
mod chaos;
mod commands;
mod config;
mod content;
mod control;
mod disk_cache;
mod download;
mod faults;
mod guarded;
mod hedging;
mod journal;
mod manifests;
mod merging;
mod opened;
mod outage;
mod presence;
mod promises;
mod s3;
mod store_contract;
mod store_directory;
mod store_s3;
mod support;
mod uploads;
mod verified;
