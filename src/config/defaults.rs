//! The default values of the keys of the configuration file.
//!
//! This file and `file.rs` import each other: defaults are implementations of `Default` for the types there, and serde takes
//! some of them by the path of a function here. They are two files because each is a table that is read by itself.

use super::file::{
    Admin, Buildkitd, Content, Control, DiskCache, File, Limits, Log, Manifests, OnUnavailable, Right, S3, StoreBreaker, StoreDeadlines,
    Transfer, Transport,
};
use super::units::{Bytes, Count, Period, Text};
use crate::telemetry::{Filter, Format};
use crate::types::{Address, Durability, Scope};

impl Default for File {
    fn default() -> Self {
        Self {
            store: None,
            data_dir: "/var/lib/remora".into(),
            default_bucket: None,
            on_unavailable: OnUnavailable::Miss,
            durability: Text(Durability::S3),
            drain_deadline: seconds(3600),
            log: Log::default(),
            buildkitd: Buildkitd::default(),
            control: Control::default(),
            content: Content::default(),
            s3: S3::default(),
            admin: Admin::default(),
            manifests: Manifests::default(),
            limits: Limits::default(),
            store_deadlines: StoreDeadlines::default(),
            store_breaker: StoreBreaker::default(),
            transfer: Transfer::default(),
            disk_cache: DiskCache::default(),
            buckets: Vec::new(),
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self { filter: Text(Filter::default()), format: Format::Auto }
    }
}

impl Default for Buildkitd {
    fn default() -> Self {
        Self { address: unix("/run/buildkit/buildkitd.sock"), connect_timeout: seconds(60) }
    }
}

impl Default for Control {
    fn default() -> Self {
        Self { listen: vec![unix("/run/remora/control.sock")], transport: Transport::Auto, max_message_bytes: Bytes(64 << 20) }
    }
}

impl Default for S3 {
    fn default() -> Self {
        Self {
            listen: vec![tcp("127.0.0.1:9190")],
            advertise: None,
            clock_skew: seconds(15 * 60),
            grant_grace: seconds(60),
            keys: Vec::new(),
        }
    }
}

impl Default for Admin {
    fn default() -> Self {
        Self { listen: vec![tcp("127.0.0.1:9191")] }
    }
}

impl Default for Manifests {
    fn default() -> Self {
        Self {
            merge: true,
            // Enough for two rounds of a matrix of twelve builds in any order: at most 23 exports of others lie between two
            // exports of one exporter. buildkitd takes 35 µs for each record of a manifest that it imports.
            max_generations: Count(24),
            max_records: Count(5000),
            max_age: seconds(7 * 24 * 3600),
            presence_max_age: seconds(10 * 60),
            lookup_interval: seconds(60),
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_manifest_bytes: Bytes(32 << 20),
            max_open_ingests: Count(1024),
            max_spool_bytes: Bytes(16 << 30),
            max_connections: Count(1024),
            max_streams: Count(1024),
            ingest_expiry: seconds(24 * 3600),
            max_store_requests: Count(crate::store::Policy::default().max_requests),
        }
    }
}

impl Default for StoreDeadlines {
    fn default() -> Self {
        let crate::store::Deadlines { connect, first_byte, stall, total } = crate::store::Deadlines::default();
        Self { connect: period(connect), first_byte: period(first_byte), stall: period(stall), total: period(total) }
    }
}

impl Default for StoreBreaker {
    fn default() -> Self {
        let crate::store::BreakerPolicy { budget, probe_interval } = crate::store::BreakerPolicy::default();
        Self { budget: period(budget), probe_interval: period(probe_interval) }
    }
}

impl Default for Transfer {
    fn default() -> Self {
        Self { memory: Bytes(128 << 20), upload_memory: Bytes(64 << 20) }
    }
}

impl Default for DiskCache {
    fn default() -> Self {
        Self {
            enabled: None,
            dir: None,
            max_size: Bytes(20 << 30),
            min_free: Bytes(5 << 30),
            read_ahead: Bytes(1 << 30),
            read_ahead_fetches: Count(4),
        }
    }
}

fn seconds(seconds: u64) -> Text<Period> {
    period(std::time::Duration::from_secs(seconds))
}

fn period(period: std::time::Duration) -> Text<Period> {
    Text(Period(period))
}

fn unix(path: &str) -> Text<Address> {
    Text(Address::Unix(path.into()))
}

fn tcp(host_port: &str) -> Text<Address> {
    Text(Address::Tcp(host_port.to_owned()))
}

pub(super) fn blobs_prefix() -> String {
    Scope::BLOBS_PREFIX.to_owned()
}

pub(super) fn manifests_prefix() -> String {
    Scope::MANIFESTS_PREFIX.to_owned()
}

pub(super) fn rights() -> Vec<Right> {
    vec![Right::Exists, Right::Read, Right::Write]
}
