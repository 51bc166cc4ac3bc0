//! The control endpoint: buildkitd's own gRPC API, passed through unchanged except for cache options.
//!
//! A client's connection gets a connection to buildkitd of its own, and its calls are forwarded there, frame by frame
//! ([`proxy`]). The calls that carry cache options are read whole ([`options`]): their `type=s3` entries are
//! pointed at the s3 endpoint, with a grant made for the build in place of the client's credentials ([`transports`]),
//! and everything else in them keeps its bytes ([`grpc`]). Where buildkitd does not reach the s3 endpoint, the cache
//! goes through the build's session ([`session`]), and its progress is put right ([`progress`]). A build that fails
//! because the cache lost layers that were promised to it is run again without it ([`replay`]).
//!
//! Each room uses only those after it:
//! `client` > `builds` > `session` > `transports` > `progress` > `replay` > `options` > `proxy` > `grpc`.
//! `admission` is a leaf that any of them may use.

mod admission;
mod builds;
mod client;
mod grpc;
#[cfg(feature = "hot-paths")]
#[doc(hidden)]
pub mod hot_paths;
mod options;
mod progress;
mod proxy;
mod replay;
mod session;
mod transports;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use super::{Listener, accept_loop};
use crate::auth::Keyring;
use crate::cache::Cache;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::types::{Address, Durability};

use admission::Admission;
use builds::Builds;
use client::{EntryDecider, Rooms};
use progress::Progress;
use proxy::{Proxy, Upstream};
use replay::Replayer;
use session::{Publisher, SessionEntries, Sessions, SessionsParts};
use transports::Router;

pub use session::SessionContent;
pub use transports::Transport;

/// How long a check of buildkitd may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// The control endpoint's settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where buildkitd listens.
    pub buildkitd: Address,
    /// How cache bytes go.
    pub transport: Transport,
    /// The s3 endpoint's URL as buildkitd sees it; `None`: there is no s3 endpoint.
    pub advertise: Option<String>,
    /// When exports are acknowledged that do not say.
    pub durability: Durability,
    /// The largest message of the calls that are read whole.
    pub max_message_bytes: u64,
    /// How long a call waits for buildkitd to be there.
    pub connect_timeout: Duration,
    /// Connections of clients at once.
    pub max_connections: usize,
    /// Calls at once on one of them, and on the connection inside a session.
    pub max_streams: u32,
}

/// The control endpoint.
pub struct Control {
    buildkitd: Address,
    max_connections: usize,
    max_streams: u32,
    /// Remora's own connection to buildkitd.
    management: Arc<Upstream>,
    rooms: Arc<Rooms>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("buildkitd", &self.buildkitd).finish_non_exhaustive()
    }
}

impl Control {
    /// The endpoint; nothing is dialled yet.
    #[must_use]
    pub fn new(cache: Cache, content: SessionContent, keyring: Keyring, config: Config, metrics: Metrics, shutdown: Shutdown) -> Self {
        let management = Arc::new(Upstream::for_management(config.buildkitd.clone(), shutdown.clone()));
        let proxy = Proxy::new(metrics.clone(), config.connect_timeout, config.max_message_bytes);
        let router = Arc::new(Router::new(config.transport, config.advertise, Arc::clone(&management), config.connect_timeout));
        let admission = Arc::new(Admission::new(shutdown.clone()));
        let stores = cache.stores().clone();
        let publisher = Publisher::new(cache.clone(), proxy.clone(), metrics.clone());
        let decider = EntryDecider {
            stores,
            durability: config.durability,
            router: Arc::clone(&router),
            admission: Arc::clone(&admission),
            session_entries: SessionEntries::new(cache),
        };
        let sessions = Sessions::new(SessionsParts {
            content,
            keyring: keyring.clone(),
            proxy: proxy.clone(),
            admission: Arc::clone(&admission),
            shutdown: shutdown.clone(),
            max_streams: config.max_streams,
        });
        let rooms = Rooms {
            shutdown,
            admission,
            router,
            builds: Arc::new(Builds::new(keyring, metrics.clone())),
            decider,
            publisher,
            sessions: Arc::new(sessions),
            replayer: Replayer::new(proxy.clone(), metrics),
            progress: Arc::new(Progress::default()),
            proxy,
        };
        Self {
            buildkitd: config.buildkitd,
            max_connections: config.max_connections,
            max_streams: config.max_streams,
            management,
            rooms: Arc::new(rooms),
        }
    }

    /// Serves clients until the endpoints close.
    pub async fn serve(self: Arc<Self>, listener: Listener, shutdown: Shutdown) {
        let serve = |connection, activity| {
            let upstream = Upstream::for_client(self.buildkitd.clone(), self.rooms.shutdown.clone());
            client::serve_connection(Arc::clone(&self.rooms), upstream, self.max_streams, connection, activity)
        };
        accept_loop(listener, shutdown, self.max_connections, serve).await;
    }

    /// Whether buildkitd answers.
    ///
    /// # Errors
    /// One line that says why not, and names its address.
    pub async fn check_buildkitd(&self) -> Result<(), String> {
        let info = self.management.call("/moby.buildkit.v1.Control/Info", &[], Duration::ZERO);
        match tokio::time::timeout(CHECK_TIMEOUT, info).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(_) => Err(format!("buildkitd at {} did not answer within {} seconds", self.buildkitd, CHECK_TIMEOUT.as_secs())),
        }
    }
}
