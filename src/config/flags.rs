//! Flags and their environment variables, which override the file. Each value goes through the same parser as its key in the
//! file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::ArgMatches;
use clap::parser::ValueSource;
use serde::de::DeserializeOwned;
use serde::de::value::{Error as ValueError, StrDeserializer};

use super::error::Error;
use super::file::File;
use super::units::Text;
use crate::types::Address;

/// The flags of every command: where the configuration and the store are.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct StoreFlags {
    /// Configuration file (TOML)
    #[arg(long, value_name = "FILE", env = "REMORA_CONFIG", hide_env_values = true)]
    pub config: Option<PathBuf>,
    /// Where the cache is kept: file:///dir or s3://bucket[/prefix] [default: file://DATA_DIR/store]
    #[arg(long, value_name = "URL", env = "REMORA_STORE", hide_env_values = true)]
    pub store: Option<String>,
    /// Directory for remora's own files [default: /var/lib/remora]
    #[arg(long, value_name = "DIR", env = "REMORA_DATA_DIR", hide_env_values = true)]
    pub data_dir: Option<String>,
    #[clap(skip)]
    origins: BTreeMap<String, String>,
}

/// What `serve` can be told.
#[derive(Debug, Clone, Default, clap::Args)]
pub struct Flags {
    /// Common to all commands.
    #[command(flatten)]
    pub store: StoreFlags,
    /// What becomes of builds when the store fails: miss (they go on without it) or fail [default: miss]
    #[arg(long, value_name = "POLICY", env = "REMORA_ON_UNAVAILABLE", hide_env_values = true)]
    pub on_unavailable: Option<String>,
    /// When exports are done: s3 (the store has everything) or local (this disk has, the rest follows) [default: s3]
    #[arg(long, value_name = "DURABILITY", env = "REMORA_DURABILITY", hide_env_values = true)]
    pub durability: Option<String>,
    /// buildkitd's socket [default: unix:///run/buildkit/buildkitd.sock]
    #[arg(long, value_name = "ADDR", env = "REMORA_BUILDKITD", hide_env_values = true)]
    pub buildkitd: Option<String>,
    /// Where builders connect instead of buildkitd; may repeat; "none" for no control endpoint
    /// [default: unix:///run/remora/control.sock]
    #[arg(long, value_name = "ADDR", env = "REMORA_CONTROL", hide_env_values = true, value_delimiter = ',')]
    pub control: Vec<String>,
    /// How buildkitd gets at the cache: auto, relay or session [default: auto]
    #[arg(long, value_name = "TRANSPORT", env = "REMORA_TRANSPORT", hide_env_values = true)]
    pub transport: Option<String>,
    /// Where the content API (gRPC) listens; may repeat [default: none]
    #[arg(long, value_name = "ADDR", env = "REMORA_CONTENT", hide_env_values = true, value_delimiter = ',')]
    pub content: Vec<String>,
    /// Where the S3 API listens; may repeat; "none" for no s3 endpoint [default: tcp://127.0.0.1:9190]
    #[arg(long, value_name = "ADDR", env = "REMORA_S3", hide_env_values = true, value_delimiter = ',')]
    pub s3: Vec<String>,
    /// URL by which buildkitd reaches the s3 endpoint [default: http:// and its address]
    #[arg(long, value_name = "URL", env = "REMORA_S3_ADVERTISE", hide_env_values = true)]
    pub s3_advertise: Option<String>,
    /// Where /livez, /readyz and /metrics are; may repeat; "none" for nowhere [default: tcp://127.0.0.1:9191]
    #[arg(long, value_name = "ADDR", env = "REMORA_ADMIN", hide_env_values = true, value_delimiter = ',')]
    pub admin: Vec<String>,
    /// Memory for what is read ahead from S3, of the whole process [default: 128MiB]
    #[arg(long, value_name = "SIZE", env = "REMORA_TRANSFER_MEMORY", hide_env_values = true)]
    pub transfer_memory: Option<String>,
    /// Turns the disk cache on, in this directory, which is nobody else's
    #[arg(long, value_name = "DIR", env = "REMORA_DISK_CACHE_DIR", hide_env_values = true)]
    pub disk_cache_dir: Option<String>,
    /// What the disk cache may take [default: 20GiB]
    #[arg(long, value_name = "SIZE", env = "REMORA_DISK_CACHE_MAX_SIZE", hide_env_values = true)]
    pub disk_cache_max_size: Option<String>,
    /// What is logged: a level, or levels by target as in info,remora=debug [default: info]
    #[arg(long, value_name = "FILTER", env = "REMORA_LOG_FILTER", hide_env_values = true)]
    pub log_filter: Option<String>,
    /// How it is logged: auto, text or json [default: auto]
    #[arg(long, value_name = "FORMAT", env = "REMORA_LOG_FORMAT", hide_env_values = true)]
    pub log_format: Option<String>,
}

impl StoreFlags {
    /// Records, for messages, which values came from a flag and which from a variable.
    pub fn note_origins(&mut self, command: &clap::Command, matches: &ArgMatches) {
        for argument in command.get_arguments() {
            let id = argument.get_id().as_str();
            let origin = match matches.try_contains_id(id).is_ok().then(|| matches.value_source(id)).flatten() {
                Some(ValueSource::EnvVariable) => argument.get_env().map(|variable| variable.to_string_lossy().into_owned()),
                Some(ValueSource::CommandLine) => argument.get_long().map(|flag| format!("--{flag}")),
                _ => None,
            };
            self.origins.extend(origin.map(|origin| (id.to_owned(), origin)));
        }
    }
}

impl Flags {
    /// Overrides `file` with the flags. Returns the origin of each overridden key.
    pub(super) fn overlay(&self, file: &mut File) -> Result<BTreeMap<&'static str, String>, Error> {
        let mut overlay = Overlay { origins: &self.store.origins, set: BTreeMap::new() };
        overlay.optional(&mut file.store, self.store.store.as_deref(), "store", "store")?;
        overlay.value(&mut file.data_dir, self.store.data_dir.as_deref(), "data_dir", "data_dir")?;
        overlay.value(&mut file.on_unavailable, self.on_unavailable.as_deref(), "on_unavailable", "on_unavailable")?;
        overlay.value(&mut file.durability, self.durability.as_deref(), "durability", "durability")?;
        overlay.value(&mut file.buildkitd.address, self.buildkitd.as_deref(), "buildkitd", "buildkitd.address")?;
        overlay.addresses(&mut file.control.listen, &self.control, "control", "control.listen")?;
        overlay.value(&mut file.control.transport, self.transport.as_deref(), "transport", "control.transport")?;
        overlay.addresses(&mut file.content.listen, &self.content, "content", "content.listen")?;
        overlay.addresses(&mut file.s3.listen, &self.s3, "s3", "s3.listen")?;
        overlay.optional(&mut file.s3.advertise, self.s3_advertise.as_deref(), "s3_advertise", "s3.advertise")?;
        overlay.addresses(&mut file.admin.listen, &self.admin, "admin", "admin.listen")?;
        overlay.value(&mut file.transfer.memory, self.transfer_memory.as_deref(), "transfer_memory", "transfer.memory")?;
        overlay.optional(&mut file.disk_cache.dir, self.disk_cache_dir.as_deref(), "disk_cache_dir", "disk_cache.dir")?;
        let max_size = self.disk_cache_max_size.as_deref();
        overlay.value(&mut file.disk_cache.max_size, max_size, "disk_cache_max_size", "disk_cache.max_size")?;
        overlay.value(&mut file.log.filter, self.log_filter.as_deref(), "log_filter", "log.filter")?;
        overlay.value(&mut file.log.format, self.log_format.as_deref(), "log_format", "log.format")?;
        Ok(overlay.set)
    }
}

struct Overlay<'a> {
    origins: &'a BTreeMap<String, String>,
    set: BTreeMap<&'static str, String>,
}

impl Overlay<'_> {
    fn value<T: DeserializeOwned>(&mut self, place: &mut T, value: Option<&str>, id: &str, key: &'static str) -> Result<(), Error> {
        // An empty variable is how compose files say "not set".
        let Some(value) = value.filter(|value| !value.is_empty()) else { return Ok(()) };
        *place = self.parse(value, id)?;
        self.set.insert(key, self.origin(id));
        Ok(())
    }

    fn optional<T: DeserializeOwned>(
        &mut self,
        place: &mut Option<T>,
        value: Option<&str>,
        id: &str,
        key: &'static str,
    ) -> Result<(), Error> {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            *place = Some(self.parse(value, id)?);
            self.set.insert(key, self.origin(id));
        }
        Ok(())
    }

    fn addresses(&mut self, place: &mut Vec<Text<Address>>, values: &[String], id: &str, key: &'static str) -> Result<(), Error> {
        let values: Vec<&String> = values.iter().filter(|value| !value.is_empty()).collect();
        if values.is_empty() {
            return Ok(());
        }
        let addresses = match values.as_slice() {
            [none] if *none == "none" => Vec::new(),
            each => each.iter().map(|value| self.parse(value, id)).collect::<Result<_, _>>()?,
        };
        *place = addresses;
        self.set.insert(key, self.origin(id));
        Ok(())
    }

    fn parse<T: DeserializeOwned>(&self, value: &str, id: &str) -> Result<T, Error> {
        T::deserialize(StrDeserializer::<ValueError>::new(value)).map_err(|error| Error::new(format!("{}: {error}", self.origin(id))))
    }

    fn origin(&self, id: &str) -> String {
        self.origins.get(id).cloned().unwrap_or_else(|| format!("--{}", id.replace('_', "-")))
    }
}
