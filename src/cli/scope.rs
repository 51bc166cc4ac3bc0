//! Which cache an admin command is about, and how the command reaches it: directly in the store, without a server.

use std::path::PathBuf;

use crate::app;
use crate::cache::{Cache, ManifestInfo};
use crate::config::{Config, Flags, StoreFlags};
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::telemetry;
use crate::types::{BucketName, Grant, ManifestName, Scope};

use super::failure::Failure;

/// Manifests in one page of a listing. S3 has the same bound.
const PAGE: usize = 1000;

/// The flags that all admin commands share.
#[derive(Debug, clap::Args)]
pub(super) struct ScopeArgs {
    #[command(flatten)]
    pub(super) store: StoreFlags,
    /// Bucket [default: the one of builds that name none]
    #[arg(long, value_name = "NAME", env = "REMORA_BUCKET", hide_env_values = true)]
    bucket: Option<String>,
    /// Prefix of the keys, as prefix= of type=s3 [default: the bucket's own, if any]
    #[arg(long, value_name = "PREFIX", env = "REMORA_PREFIX", hide_env_values = true)]
    prefix: Option<String>,
    /// As blobs_prefix= of type=s3
    #[arg(long, value_name = "PREFIX", env = "REMORA_BLOBS_PREFIX", hide_env_values = true, default_value = Scope::BLOBS_PREFIX)]
    blobs_prefix: String,
    /// As manifests_prefix= of type=s3
    #[arg(long, value_name = "PREFIX", env = "REMORA_MANIFESTS_PREFIX", hide_env_values = true, default_value = Scope::MANIFESTS_PREFIX)]
    manifests_prefix: String,
}

/// A cache that was opened for the operator.
pub(super) struct Opened {
    pub(super) cache: Cache,
    pub(super) grant: Grant,
    _spool: Spool,
}

/// A spool for this command alone: the spool of a running server must not be touched.
struct Spool(PathBuf);

impl Drop for Spool {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl ScopeArgs {
    pub(super) async fn open(self) -> Result<Opened, Failure> {
        log_warnings();
        let mut config = Config::load(&Flags { store: self.store, ..Flags::default() })?;
        let usage = |invalid: crate::types::Invalid| Failure::Usage(invalid.to_string());
        let bucket: BucketName = match &self.bucket {
            Some(name) => name.parse().map_err(|invalid| Failure::Usage(format!("--bucket: {invalid}")))?,
            None => config.store.default_bucket().clone(),
        };
        let prefix = self.prefix.unwrap_or_else(|| config.store.prefix(&bucket).to_owned());
        let scope = Scope::with_prefixes(bucket, &prefix, &self.blobs_prefix, &self.manifests_prefix).map_err(usage)?;
        let spool = Spool(std::env::temp_dir().join(format!("remora-{:016x}", rand::random::<u64>())));
        config.cache.spool_dir = spool.0.clone();
        config.cache.journal_dir = None;
        // The disk cache belongs to the server, and these commands are about what is stored.
        config.cache.disk = None;
        let metrics = Metrics::default();
        let shutdown = Shutdown::default();
        let stores = app::open_stores(config.store, &metrics, &shutdown).await?;
        let cache = Cache::open(stores, config.cache, metrics, shutdown).await?;
        cache.stores().store(&scope).map_err(|denied| anyhow::anyhow!("{denied}"))?;
        Ok(Opened { cache, grant: Grant::operator(scope), _spool: spool })
    }
}

impl Opened {
    /// Every manifest of the scope, ordered by name.
    pub(super) async fn manifests(&self) -> Result<Vec<ManifestInfo>, Failure> {
        let mut all: Vec<ManifestInfo> = Vec::new();
        loop {
            let after = all.last().map(|info| info.name.as_str().to_owned());
            let (page, more) = self.cache.manifests().list(&self.grant, after.as_deref(), PAGE).await?;
            // A page with nothing but foreign objects would be listed again and again.
            let stuck = page.is_empty();
            all.extend(page);
            if !more || stuck {
                return Ok(all);
            }
        }
    }
}

/// A manifest's name from the command line.
pub(super) fn parse_name(text: &str) -> Result<ManifestName, Failure> {
    text.parse().map_err(|invalid: crate::types::Invalid| Failure::Usage(invalid.to_string()))
}

/// Turns on the logs of a command for people: warnings and errors only.
fn log_warnings() {
    let filter = "warn".parse().unwrap_or_default();
    let _ = telemetry::init(&telemetry::Config { filter, format: telemetry::Format::Auto });
}
