//! The composition root: makes every part, binds every listener, starts everything, and ends everything in order.
//!
//! At the end remora says that it is not ready, takes no new builds, serves those that are running, and closes the endpoints.
//! The admin endpoint is closed last.

use std::fs::{File, TryLockError};
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::admin::{Admin, Check, Fault, Readiness};
use crate::auth::Keyring;
use crate::cache::Cache;
use crate::config::{Config, OnUnavailable, StoreConfig};
use crate::endpoints::content::Content;
use crate::endpoints::control::{self, Control};
use crate::endpoints::s3::S3;
use crate::endpoints::{Listener, content};
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::store::{self, Guarded, Served, Stores};
use crate::types::Address;

/// How long the last answers of the admin endpoint may take.
const ADMIN_DEADLINE: Duration = Duration::from_millis(200);

/// The pause between two log lines that say what a drain is waiting for.
const DRAIN_REPORT: Duration = Duration::from_secs(30);

/// A remora that serves.
#[derive(Debug)]
pub struct App {
    shutdown: Shutdown,
    admin_shutdown: Shutdown,
    metrics: Metrics,
    drain_deadline: Duration,
    /// Locked while the process runs, since only one process may use the spool.
    _data_dir: File,
}

impl App {
    /// Makes and starts everything. Nothing is served before all parts could be made.
    ///
    /// # Errors
    /// One that names what is in the way: the data directory, a store, an address.
    pub async fn start(config: Config) -> Result<Self> {
        let shutdown = Shutdown::default();
        let admin_shutdown = Shutdown::default();
        let data_dir = claim(&config.data_dir)?;
        let control_listeners = bind("control", &config.control.addresses).await?;
        let content_listeners = bind("content", &config.content.addresses).await?;
        let s3_listeners = bind("s3", &config.s3.addresses).await?;
        let admin_listeners = bind("admin", &config.admin).await?;
        warn_of_open_doors(&control_listeners, &content_listeners, &config.content.config);

        let metrics = Metrics::default();
        let stores = open_stores(config.store, &metrics, &shutdown).await?;
        let cache = Cache::open(stores.clone(), config.cache, metrics.clone(), shutdown.clone()).await?;
        shutdown.spawn(cache.background().touch(shutdown.clone()));
        shutdown.spawn(cache.background().finish_journal(shutdown.clone()));
        let keyring = match config.on_unavailable {
            OnUnavailable::Miss => Keyring::tolerant(config.operator_keys, config.grant_grace),
            OnUnavailable::Fail => Keyring::new(config.operator_keys, config.grant_grace),
        };

        let advertise = config.control.config.advertise.clone().or_else(|| advertised(&s3_listeners));
        let control_config = control::Config { advertise, ..config.control.config };
        let buildkitd = control_config.buildkitd.clone();
        let content = Arc::new(Content::new(cache.clone(), config.content.config, metrics.clone()));
        let control =
            Control::new(cache.clone(), content.for_sessions(), keyring.clone(), control_config, metrics.clone(), shutdown.clone());
        let control = Arc::new(control);
        let s3 = Arc::new(S3::new(cache.clone(), keyring, config.s3.config, metrics.clone()));

        let mut checks = store_checks(&stores, config.on_unavailable);
        if !control_listeners.is_empty() {
            let control = Arc::clone(&control);
            checks.push(Check::new(format!("buildkitd {buildkitd}"), move || {
                let control = Arc::clone(&control);
                async move { control.check_buildkitd().await.map_err(Fault::Fatal) }
            }));
        }
        let admin = Arc::new(Admin::new(Readiness::new(checks, shutdown.clone()), metrics.clone(), cache));

        tracing::info!("{}", stores.offer());
        start("control", control_listeners, &shutdown, |listener, shutdown| Arc::clone(&control).serve(listener, shutdown));
        start("content", content_listeners, &shutdown, |listener, shutdown| Arc::clone(&content).serve(listener, shutdown));
        start("s3", s3_listeners, &shutdown, |listener, shutdown| Arc::clone(&s3).serve(listener, shutdown));
        start("admin", admin_listeners, &admin_shutdown, |listener, shutdown| Arc::clone(&admin).serve(listener, shutdown));
        Ok(Self { shutdown, admin_shutdown, metrics, drain_deadline: config.drain_deadline, _data_dir: data_dir })
    }

    /// Takes no new builds, serves those that are running, at most until the drain deadline, and then closes. Where this
    /// future is dropped, the end of the process does the rest.
    pub async fn drain(self) {
        self.shutdown.drain();
        tracing::info!(
            drain_deadline = ?self.drain_deadline,
            "draining: no new builds are taken; {} running builds may finish",
            self.metrics.builds().running()
        );
        let finished = tokio::select! {
            finished = self.shutdown.finish(self.drain_deadline) => finished,
            () = self.tell_what_runs() => false,
        };
        if !finished {
            tracing::warn!(deadline = ?self.drain_deadline, "the drain deadline passed; what still ran was cut off");
        }
        self.admin_shutdown.finish(ADMIN_DEADLINE).await;
    }

    /// Logs now and then what the drain is waiting for.
    async fn tell_what_runs(&self) {
        loop {
            tokio::time::sleep(DRAIN_REPORT).await;
            tracing::info!("still draining: {} builds run", self.metrics.builds().running());
        }
    }
}

/// Opens the stores in which the cache is kept. The tasks that watch over them belong to `shutdown`.
///
/// # Errors
/// Where a bucket's client cannot be made.
pub async fn open_stores(config: StoreConfig, metrics: &Metrics, shutdown: &Shutdown) -> Result<Stores> {
    match config {
        StoreConfig::Directory { root, default } => Ok(Stores::Directory { root, default }),
        StoreConfig::Buckets { served, default } => {
            let mut buckets = std::collections::BTreeMap::new();
            for bucket in served {
                let name = bucket.s3.bucket.clone();
                let s3 = Box::pin(store::S3::connect(bucket.s3)).await.with_context(|| format!("bucket {name}"))?;
                let region = s3.region().map(str::to_owned);
                let store = Guarded::new(Arc::new(s3), bucket.policy, metrics.store(format!("s3://{name}")), shutdown.clone());
                buckets.insert(name, Served { store: Arc::new(store), region, prefix: bucket.prefix });
            }
            Ok(Stores::Buckets { served: buckets, default })
        }
    }
}

/// Makes the data directory and locks it for this process.
fn claim(data_dir: &Path) -> Result<File> {
    let failed = || format!("data_dir: cannot write to {}", data_dir.display());
    std::fs::create_dir_all(data_dir).with_context(failed)?;
    let lock = File::create(data_dir.join("lock")).with_context(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok(lock),
        Err(TryLockError::WouldBlock) => bail!("data_dir: another remora uses {}", data_dir.display()),
        Err(TryLockError::Error(error)) => Err(error).with_context(failed),
    }
}

async fn bind(endpoint: &'static str, addresses: &[Address]) -> Result<Vec<Listener>> {
    let mut listeners = Vec::new();
    for address in addresses {
        listeners.push(Listener::bind(address).await.map_err(|error| anyhow!("{endpoint}.listen: {error}"))?);
    }
    Ok(listeners)
}

fn start<F>(endpoint: &'static str, listeners: Vec<Listener>, shutdown: &Shutdown, serve: impl Fn(Listener, Shutdown) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    for listener in listeners {
        tracing::info!(endpoint.name = endpoint, endpoint.address = %listener.address(), "listening");
        shutdown.spawn(serve(listener, shutdown.clone()));
    }
}

/// The URL of the s3 endpoint for a buildkitd in this machine's network.
fn advertised(listeners: &[Listener]) -> Option<String> {
    let host_port = listeners.iter().find_map(|listener| match listener.address() {
        Address::Tcp(host_port) => host_port.parse::<std::net::SocketAddr>().ok(),
        Address::Unix(_) => None,
    })?;
    if !host_port.ip().is_unspecified() {
        return Some(format!("http://{host_port}"));
    }
    let url = format!("http://127.0.0.1:{}", host_port.port());
    tracing::info!(s3.advertise = url, "the s3 endpoint listens everywhere; --s3-advertise says by which name buildkitd reaches it");
    Some(url)
}

/// How long a store may take to answer. This is less than a check may take, so that the error is the one that is made here.
const STORE_CHECK: Duration = Duration::from_secs(2);

/// Checks of the stores. A store that does not answer fails no build unless the configuration says so. A store that refuses
/// remora, or does not exist, is set up wrongly, and that must not go unnoticed.
fn store_checks(stores: &Stores, on_unavailable: OnUnavailable) -> Vec<Check> {
    let check = |store: Arc<dyn store::GuardedStore>| {
        Check::new(format!("store {}", store.url()), move || {
            let store = Arc::clone(&store);
            async move {
                let silent = |_| Err(store::Error::Unavailable(format!("no answer in {} s", STORE_CHECK.as_secs())));
                let checked = tokio::time::timeout(STORE_CHECK, store.check()).await.unwrap_or_else(silent);
                checked.map_err(|error| match (&error, on_unavailable) {
                    (store::Error::Unavailable(_) | store::Error::Exhausted(_), OnUnavailable::Miss) => Fault::Bearable(error.to_string()),
                    _ => Fault::Fatal(error.to_string()),
                })
            }
        })
    };
    stores.known().into_iter().map(check).collect()
}

fn warn_of_open_doors(control: &[Listener], content: &[Listener], config: &content::Config) {
    let open = |listeners: &[Listener]| listeners.iter().map(Listener::address).find(|address| !address.is_local()).cloned();
    if let Some(address) = open(control) {
        tracing::warn!(
            control.address = %address,
            "anyone who reaches the control endpoint's TCP address can build as root on this buildkitd; \
             listen on a Unix socket or loopback, or let nobody else reach the port"
        );
    }
    if let Some(address) = open(content).filter(|_| config.token.is_none()) {
        tracing::warn!(
            content.address = %address,
            "anyone who reaches the content endpoint's TCP address can read and change the cache; \
             set content.token_file, or listen on a Unix socket or loopback"
        );
    }
}
