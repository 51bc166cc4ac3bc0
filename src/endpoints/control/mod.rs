//! The control endpoint: buildkitd's own gRPC API, passed through unchanged except for cache options.
//!
//! A client's connection gets a connection to buildkitd of its own, and its calls are joined to calls
//! there, frame by frame ([`forward`]). The two calls that carry cache options ([`rewrite`]) are read
//! whole: their `type=s3` entries are pointed at the s3 endpoint, with a grant made for the build in
//! place of the client's credentials ([`relay`]), and everything else in them keeps its bytes ([`wire`]).
//! Whether buildkitd reaches the s3 endpoint is asked of buildkitd itself ([`probe`]). Where it does not,
//! the cache goes through the build's session ([`local`]), and its progress is put right ([`progress`]).
//! A build that fails because the cache lost layers that were promised to it is run again without ([`replay`]).
//! Traces lose the credentials of the command line that they quote ([`traces`]).

mod attrs;
mod batched;
mod body;
mod builds;
mod call;
mod forward;
#[doc(hidden)]
pub mod hot_paths;
mod inline;
mod limits;
mod local;
mod message;
mod oci;
mod probe;
mod progress;
mod recording;
mod relay;
mod replay;
mod rewrite;
mod route;
mod session;
mod solve;
mod status;
mod traces;
mod tunnel;
mod upstream;
mod vertex;
mod wire;

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio_util::task::TaskTracker;
use tonic::service::Routes;

use super::{Connection, Listener, accept_loop};
use crate::auth::Keyring;
use crate::cache::Cache;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::types::{Address, Durability};

use body::{RequestBody, ResponseBody};
use builds::Builds;
use call::Call;
use probe::Probe;
use progress::Progress;
use rewrite::Solve;
use session::Sessions;
use upstream::Upstream;

/// How long a check of buildkitd may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// A gateway call with which a client does more than to build.
const NEW_CONTAINER: &str = "/moby.buildkit.v1.frontend.LLBBridge/NewContainer";

/// After the last build of a connection its client may ask for the build's record; then the drain
/// closes the connection.
const AFTER_BUILD: Duration = Duration::from_secs(1);

/// How cache bytes go between buildkitd and remora.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Relay where buildkitd reaches the s3 endpoint, else session.
    Auto,
    /// Over HTTP, through the s3 endpoint, unchecked.
    Relay,
    /// Over gRPC, through the client's session: needs nothing but the control socket, and is slower.
    Session,
}

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

/// Makes the content endpoint's services for the calls of one session. They take the grant that comes with
/// a request.
pub type SessionContent = Arc<dyn Fn() -> Routes + Send + Sync>;

/// The control endpoint.
pub struct Control {
    cache: Cache,
    content: SessionContent,
    config: Config,
    metrics: Metrics,
    shutdown: Shutdown,
    builds: Arc<Builds>,
    management: Upstream,
    probe: Probe,
    sessions: Sessions,
    progress: Arc<Progress>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Control").field("config", &self.config).finish_non_exhaustive()
    }
}

/// What the calls of one client's connection share.
#[derive(Debug)]
struct Client {
    control: Arc<Control>,
    upstream: Arc<Upstream>,
    /// A token for each build and session: while one is out, the client will make more calls.
    busy: TaskTracker,
}

impl Control {
    /// The endpoint; nothing is dialled yet.
    #[must_use]
    pub fn new(cache: Cache, content: SessionContent, keyring: Keyring, config: Config, metrics: Metrics, shutdown: Shutdown) -> Self {
        let builds = Arc::new(Builds::new(keyring, metrics.clone()));
        let management = Upstream::for_management(config.buildkitd.clone(), shutdown.clone());
        Self {
            cache,
            content,
            config,
            metrics,
            shutdown,
            builds,
            management,
            probe: Probe::default(),
            sessions: Sessions::default(),
            progress: Arc::default(),
        }
    }

    /// Serves clients until the drain begins and their builds are done.
    pub async fn serve(self: Arc<Self>, listener: Listener, shutdown: Shutdown) {
        let max_connections = self.config.max_connections;
        let serve = |connection| Arc::clone(&self).serve_connection(connection);
        accept_loop(listener, shutdown, max_connections, serve).await;
    }

    /// Whether buildkitd answers.
    ///
    /// # Errors
    /// One line that says why not, and names its address.
    pub async fn check_buildkitd(&self) -> Result<(), String> {
        let info = self.management.call("/moby.buildkit.v1.Control/Info", &[], Duration::ZERO);
        match tokio::time::timeout(CHECK_TIMEOUT, info).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(_) => Err(format!("buildkitd at {} did not answer within {} seconds", self.config.buildkitd, CHECK_TIMEOUT.as_secs())),
        }
    }

    async fn serve_connection(self: Arc<Self>, connection: Connection) {
        let shutdown = self.shutdown.clone();
        let upstream = Arc::new(Upstream::for_client(self.config.buildkitd.clone(), shutdown.clone()));
        let client = Arc::new(Client { control: self, upstream, busy: TaskTracker::new() });
        let service = {
            let client = Arc::clone(&client);
            service_fn(move |request| Arc::clone(&client).serve_call(request))
        };
        let server = limits::server(shutdown.clone(), client.control.config.max_streams);
        let mut served = pin!(server.serve_connection(TokioIo::new(batched::socket(connection)), service));
        let ended = tokio::select! {
            ended = served.as_mut() => ended,
            () = client.may_drain(&shutdown) => {
                served.as_mut().graceful_shutdown();
                served.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "client connection broke");
        }
    }
}

impl Client {
    async fn serve_call(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<ResponseBody>, hyper::Error> {
        let control = &self.control;
        let path = request.uri().path();
        let solve = Solve::of(path);
        let is_session = path == session::SESSION;
        let lasts = solve == Some(Solve::Build) || is_session;
        let call = Call::begin(path, control.metrics.clone(), lasts.then(|| self.busy.token()));
        match solve {
            _ if is_session && control.joins_sessions().await => self.session(request, call).await,
            Some(solve) => control.solve(&self.upstream, request, solve, call).await,
            None if path == NEW_CONTAINER => {
                if let Some(build) = control.build_in(request.headers()) {
                    build.replay().give_up();
                }
                forward::forward(&self.upstream, request.map(RequestBody::Streamed), control.config.connect_timeout, call).await
            }
            None if path == progress::STATUS => control.status(&self.upstream, request, call).await,
            None if path == traces::EXPORT => control.traces(&self.upstream, request, call).await,
            None => forward::forward(&self.upstream, request.map(RequestBody::Streamed), control.config.connect_timeout, call).await,
        }
    }

    /// Resolves when the drain began and no build needs the connection any more.
    async fn may_drain(&self, shutdown: &Shutdown) {
        shutdown.draining().await;
        if !self.busy.is_empty() {
            self.busy.close();
            self.busy.wait().await;
            tokio::time::sleep(AFTER_BUILD).await;
        }
    }
}
