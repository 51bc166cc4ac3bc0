//! The control endpoint: buildkitd's own gRPC API, passed through unchanged except for cache options.
//!
//! A client's connection gets a connection to buildkitd of its own, and its calls are joined to calls
//! there, frame by frame ([`proxy`]). The two calls that carry cache options ([`options`]) are read
//! whole: their `type=s3` entries are pointed at the s3 endpoint, with a grant made for the build in
//! place of the client's credentials ([`transports`]), and everything else in them keeps its bytes ([`grpc`]).
//! Whether buildkitd reaches the s3 endpoint is asked of buildkitd itself ([`transports`]). Where it does not,
//! the cache goes through the build's session ([`session`]), and its progress is put right ([`progress`]).
//! A build that fails because the cache lost layers that were promised to it is run again without ([`replay`]).
//! Traces lose the credentials of the command line that they quote ([`progress`]).

mod admission;
mod builds;
mod client;
mod grpc;
#[doc(hidden)]
pub mod hot_paths;
mod options;
mod progress;
mod proxy;
mod replay;
mod session;
mod transports;

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tonic::Status;
use tonic::service::Routes;

use super::{Activity, Connection, Listener, accept_loop};
use crate::auth::Keyring;
use crate::cache::Cache;
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;
use crate::types::{Address, Durability};

use admission::{Admission, Arrival};
use builds::build::Builds;
use grpc::{batched, limits, status};
use options::rewrite::Solve;
use progress::names::{self, Progress};
use progress::traces;
use proxy::body::{RequestBody, ResponseBody};
use proxy::call::Call;
use proxy::forward;
use proxy::upstream::Upstream;
use replay::runner::BUILD_ID;
use session::join::{self, Sessions};
use transports::probe::Probe;

/// How long a check of buildkitd may take.
const CHECK_TIMEOUT: Duration = Duration::from_secs(5);

/// A gateway call with which a client does more than to build.
const NEW_CONTAINER: &str = "/moby.buildkit.v1.frontend.LLBBridge/NewContainer";

/// When the endpoints close no build runs. Calls that are left then, of those who watch, have so long to end.
const LEFT_CALLS: Duration = Duration::from_secs(1);

/// What a client is told whose build is cut off.
const CUT_OFF: &str = "remora is shutting down, and its drain_deadline passed before this build ended";

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
    admission: Arc<Admission>,
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
    arrival: Arrival,
}

impl Control {
    /// The endpoint; nothing is dialled yet.
    #[must_use]
    pub fn new(cache: Cache, content: SessionContent, keyring: Keyring, config: Config, metrics: Metrics, shutdown: Shutdown) -> Self {
        let builds = Arc::new(Builds::new(keyring, metrics.clone()));
        let management = Upstream::for_management(config.buildkitd.clone(), shutdown.clone());
        let admission = Arc::new(Admission::new(shutdown.clone()));
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
            admission,
        }
    }

    /// Serves clients until the endpoints close.
    pub async fn serve(self: Arc<Self>, listener: Listener, shutdown: Shutdown) {
        let max_connections = self.config.max_connections;
        let serve = |connection, activity| Arc::clone(&self).serve_connection(connection, activity);
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

    async fn serve_connection(self: Arc<Self>, connection: Connection, activity: Activity) {
        let shutdown = self.shutdown.clone();
        let upstream = Arc::new(Upstream::for_client(self.config.buildkitd.clone(), shutdown.clone()));
        let client = Arc::new(Client { arrival: self.admission.arrival(), control: self, upstream });
        let service = {
            let (client, activity) = (Arc::clone(&client), activity.clone());
            service_fn(move |request| {
                let (running, answer) = (activity.begin(), Arc::clone(&client).serve_call(request));
                async move { answer.await.map(|response| running.answered(response)) }
            })
        };
        let server = limits::server(shutdown.clone(), client.control.config.max_streams);
        let mut served = pin!(server.serve_connection(TokioIo::new(batched::socket(connection)), service));
        let ended = tokio::select! {
            ended = served.as_mut() => ended,
            () = activity.is_over() => {
                served.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = served => ended,
                    () = left_calls_end(&shutdown) => Ok(()),
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "client connection broke");
        }
    }
}

async fn left_calls_end(shutdown: &Shutdown) {
    shutdown.closing().await;
    tokio::time::sleep(LEFT_CALLS).await;
}

impl Client {
    async fn serve_call(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<ResponseBody>, hyper::Error> {
        let shutdown = &self.control.shutdown;
        tokio::select! {
            answered = self.answer(request) => answered,
            () = shutdown.overdue() => Ok(status::response(Status::unavailable(CUT_OFF))),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Result<Response<ResponseBody>, hyper::Error> {
        let control = &self.control;
        let path = request.uri().path();
        let call = Call::begin(path, control.metrics.clone());
        if request.headers().contains_key(BUILD_ID)
            && control.build_in(request.headers()).is_none()
            && let Err(refusal) = control.admission.expects_builds(&self.arrival)
        {
            return Ok(forward::refuse(call, refusal));
        }
        match Solve::of(path) {
            Some(solve) => self.solve(request, solve, call).await,
            None if path == join::SESSION => self.session(request, call).await,
            None if path == NEW_CONTAINER => {
                if let Some(build) = control.build_in(request.headers()) {
                    build.replay().give_up();
                }
                forward::forward(&self.upstream, request.map(RequestBody::Streamed), control.config.connect_timeout, call).await
            }
            None if path == names::STATUS => control.status(&self.upstream, request, call, self.arrival).await,
            None if path == traces::EXPORT => control.traces(&self.upstream, request, call).await,
            None => forward::forward(&self.upstream, request.map(RequestBody::Streamed), control.config.connect_timeout, call).await,
        }
    }
}
