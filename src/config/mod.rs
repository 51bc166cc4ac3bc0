//! The configuration: a TOML file, environment variables that override it, and flags that override both. It is turned into
//! what each part takes.
//!
//! Nothing else reads configuration files, flags, or the environment (except for the AWS credential chain). Every error is
//! one line that names the key and what is allowed. `file.rs` has all keys, `defaults.rs` their default values.

mod buckets;
mod defaults;
mod effective;
mod endpoint_url;
mod error;
mod file;
mod flags;
mod secret;
mod store_url;
mod units;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use crate::endpoints::{content, control, s3};
use crate::transfer::RANGE_BYTES;
use crate::types::{Address, Durability};
use crate::{auth, cache, telemetry};

pub use buckets::{BucketConfig, StoreConfig};
pub use error::Error;
pub use file::OnUnavailable;
pub use flags::{Flags, StoreFlags};

use endpoint_url::check_url;
use file::File;

/// The whole configuration, checked. Only the machine (a port in use, a disk) can still be in the way.
#[derive(Debug)]
pub struct Config {
    /// How logs are written.
    pub log: telemetry::Config,
    /// The directory for remora's own files.
    pub data_dir: PathBuf,
    /// Where the cache is kept.
    pub store: StoreConfig,
    /// What happens to builds when the store fails.
    pub on_unavailable: OnUnavailable,
    /// Settings of the cache.
    pub cache: cache::Settings,
    /// How long running work may take to finish when remora ends.
    pub drain_deadline: Duration,
    /// The control endpoint.
    pub control: Listening<control::Config>,
    /// The content endpoint.
    pub content: Listening<content::Config>,
    /// The s3 endpoint.
    pub s3: Listening<s3::Config>,
    /// Keys of the s3 endpoint.
    pub operator_keys: Vec<auth::OperatorKey>,
    /// How long grants stay valid after their build.
    pub grant_grace: Duration,
    /// The admin endpoint's addresses.
    pub admin: Vec<Address>,
    /// What the operator should know, although it is no error.
    pub warnings: Vec<String>,
    effective: File,
    origins: BTreeMap<&'static str, String>,
    path: Option<PathBuf>,
}

/// An endpoint and where it listens.
#[derive(Debug, Clone)]
pub struct Listening<T> {
    /// Its addresses; none where it is off.
    pub addresses: Vec<Address>,
    /// Its own configuration.
    pub config: T,
}

impl Config {
    /// Reads the file that `flags` name, lays variables and flags over it, reads the secrets.
    ///
    /// # Errors
    /// [`Error`] for the first thing that is wrong.
    pub fn load(flags: &Flags) -> Result<Self, Error> {
        let path = flags.store.config.clone().filter(|path| !path.as_os_str().is_empty());
        let mut file = path.as_deref().map_or_else(|| Ok(File::default()), File::read)?;
        let origins = flags.overlay(&mut file)?;
        let mut secrets = secret::Secrets::default();
        check_endpoints(&file)?;
        let store = buckets::store(&mut file, &mut secrets)?;
        let disk = disk_cache(&mut file)?;
        let operator_keys = buckets::operator_keys(&file.s3.keys, &store, &mut secrets)?;
        let token = file.content.token_file.as_deref().map(|path| secrets.read_file("content.token_file", path)).transpose()?;
        let max_connections = file.limits.max_connections.0;
        let max_streams = u32::try_from(file.limits.max_streams.0).unwrap_or(u32::MAX);
        let control = control::Config {
            buildkitd: file.buildkitd.address.0.clone(),
            transport: match file.control.transport {
                file::Transport::Auto => control::Transport::Auto,
                file::Transport::Relay => control::Transport::Relay,
                file::Transport::Session => control::Transport::Session,
            },
            advertise: file.s3.advertise.clone(),
            durability: file.durability.0,
            max_message_bytes: file.control.max_message_bytes.0,
            connect_timeout: file.buildkitd.connect_timeout.0.0,
            max_connections,
            max_streams,
        };
        let mut warnings = secrets.warnings;
        if file.durability.0 == Durability::Local && matches!(store, StoreConfig::Directory { .. }) {
            warnings.push("durability: local is the same as s3 where the store is a directory, which has everything at once".to_owned());
        }
        Ok(Self {
            log: telemetry::Config { filter: file.log.filter.0.clone(), format: file.log.format },
            cache: cache::Settings {
                spool_dir: file.data_dir.join("spool"),
                // A directory stores everything at once, so it needs no journal.
                journal_dir: matches!(store, StoreConfig::Buckets { .. }).then(|| file.data_dir.join("journal")),
                max_manifest_bytes: file.limits.max_manifest_bytes.0,
                max_open_ingests: file.limits.max_open_ingests.0,
                max_spool_bytes: file.limits.max_spool_bytes.0,
                ingest_expiry: file.limits.ingest_expiry.0.0,
                presence_max_age: file.manifests.presence_max_age.0.0,
                lookup_interval: file.manifests.lookup_interval.0.0,
                merge: file.manifests.merge.then_some(cache::MergeRules {
                    max_generations: file.manifests.max_generations.0,
                    max_records: file.manifests.max_records.0,
                    max_age: file.manifests.max_age.0.0,
                }),
                transfer_memory: file.transfer.memory.0,
                upload_memory: file.transfer.upload_memory.0,
                disk,
            },
            on_unavailable: file.on_unavailable,
            drain_deadline: file.drain_deadline.0.0,
            control: Listening { addresses: addresses(&file.control.listen), config: control },
            content: Listening {
                addresses: addresses(&file.content.listen),
                config: content::Config { token, max_connections, max_streams },
            },
            s3: Listening {
                addresses: addresses(&file.s3.listen),
                config: s3::Config { clock_skew: file.s3.clock_skew.0.0, max_connections },
            },
            operator_keys,
            grant_grace: file.s3.grant_grace.0.0,
            admin: addresses(&file.admin.listen),
            warnings,
            data_dir: file.data_dir.clone(),
            store,
            effective: file,
            origins,
            path,
        })
    }

    /// The whole configuration as TOML, each value with its origin. Without secrets.
    ///
    /// # Errors
    /// Only for a bug.
    pub fn to_toml(&self) -> Result<String, Error> {
        effective::print(&self.effective, self.path.as_deref(), &self.origins)
    }
}

fn addresses(texts: &[units::Text<Address>]) -> Vec<Address> {
    texts.iter().map(|text| text.0.clone()).collect()
}

/// Checks what depends on more than one key.
fn check_endpoints(file: &File) -> Result<(), Error> {
    let refuse = |message: &str| Err(Error::new(message));
    if !file.data_dir.is_absolute() {
        return refuse(&format!("data_dir: invalid path {:?}: want an absolute one", file.data_dir));
    }
    if file.transfer.memory.0 < RANGE_BYTES {
        return refuse(&format!(
            "transfer.memory: {} bytes do not hold one range; want at least {}MiB",
            file.transfer.memory.0,
            RANGE_BYTES >> 20
        ));
    }
    if file.control.listen.is_empty() && file.content.listen.is_empty() && file.s3.listen.is_empty() {
        return refuse("control.listen, content.listen, s3.listen: all are off, so there is nothing to serve; want at least one address");
    }
    if let Some(url) = &file.s3.advertise {
        check_url("s3.advertise", url)?;
        if file.s3.listen.is_empty() {
            return refuse("s3.advertise: there is no s3 endpoint to advertise; want an address in s3.listen");
        }
    }
    if file.control.transport == file::Transport::Relay && !file.control.listen.is_empty() && file.s3.listen.is_empty() {
        return refuse("control.transport: relay goes through the s3 endpoint; want an address in s3.listen");
    }
    Ok(())
}

/// Fills in `file.disk_cache`, and turns it into settings of the cache. The disk cache is off unless it is asked for: writing
/// to the disk slows the first import down, and only a later import on an emptied builder gains from it.
fn disk_cache(file: &mut File) -> Result<Option<cache::DiskSettings>, Error> {
    let disk = &mut file.disk_cache;
    let enabled = *disk.enabled.get_or_insert(disk.dir.is_some());
    let dir = disk.dir.get_or_insert_with(|| file.data_dir.join("disk-cache")).clone();
    if !dir.is_absolute() {
        return Err(Error::new(format!("disk_cache.dir: invalid path {dir:?}: want an absolute one")));
    }
    Ok(enabled.then_some(cache::DiskSettings {
        dir,
        max_size: disk.max_size.0,
        min_free: disk.min_free.0,
        read_ahead: disk.read_ahead.0,
        read_ahead_fetches: disk.read_ahead_fetches.0,
    }))
}
