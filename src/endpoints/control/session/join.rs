//! A build's session, taken apart and put together again, so that remora can answer in it.
//!
//! The two ends of a `Control/Session` call speak HTTP/2 through it (`grpc::tunnel`): buildkitd
//! calls, the build's client answers. Here remora stands between them: it answers calls of containerd's
//! content API that name a store of its own, and passes on every other one, whatever it is.

use std::collections::HashSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tonic::service::Routes;
use tonic::{Code, Status};
use tower::ServiceExt as _;

use super::local;
use crate::endpoints::control::grpc::batched::Batched;
use crate::endpoints::control::grpc::tunnel;
use crate::endpoints::control::grpc::tunnel::Tunnel;
use crate::endpoints::control::grpc::{limits, status};
use crate::endpoints::control::proxy::body::{RequestBody, ResponseBody};
use crate::endpoints::control::proxy::call::Call;
use crate::endpoints::control::proxy::forward;
use crate::endpoints::control::proxy::upstream::{SendError, Upstream};
use crate::endpoints::control::{Client, Control};

/// The path of the call.
pub(crate) const SESSION: &str = "/moby.buildkit.v1.Control/Session";
/// The content store that a call is for (`session/content/attachable.go`, BuildKit v0.33); the first one
/// counts.
const STORE_ID: &str = "buildkit-attachable-store-id";
/// The id of the session, by the client's choice (`session/session.go`).
const ID: &str = "x-docker-expose-session-uuid";
/// How long a `Solve` waits for its session.
const ARRIVAL: Duration = Duration::from_secs(1);
/// The methods that the client offers, one value each (`session/session.go`).
const METHODS: &str = "x-docker-expose-session-grpc-method";
const CONTENT: &str = "/containerd.services.content.v1.Content/";
const CONTENT_METHODS: [&str; 9] = ["Abort", "Delete", "Info", "List", "ListStatuses", "Read", "Status", "Update", "Write"];

/// The sessions that were taken apart and still run. A build's own must be among them before its cache can
/// go through it.
#[derive(Debug, Default)]
pub(crate) struct Sessions {
    running: watch::Sender<HashSet<String>>,
}

impl Sessions {
    /// Whether the session of this id is among them. A client makes its `Session` and `Solve` calls at the
    /// same time, so this waits a moment.
    pub(crate) async fn joined(&self, id: &str) -> bool {
        let mut running = self.running.subscribe();
        let arrived = running.wait_for(|running| running.contains(id));
        tokio::time::timeout(ARRIVAL, arrived).await.is_ok_and(|arrived| arrived.is_ok())
    }

    fn begin(&self, id: &str) {
        self.running.send_if_modified(|running| running.insert(id.to_owned()));
    }

    fn end(&self, id: &str) {
        self.running.send_if_modified(|running| running.remove(id));
    }
}

impl Client {
    /// Serves a `Control/Session` call: as the one in the middle, where caches may go through it.
    ///
    /// # Errors
    /// The reset of this call by buildkitd.
    pub(crate) async fn session(&self, request: Request<Incoming>, mut call: Call) -> Result<Response<ResponseBody>, hyper::Error> {
        let id = request.headers().get(ID).and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned();
        match self.control.admission.admit(&id, &self.arrival) {
            Ok(admitted) => call.is_admitted(admitted),
            Err(refusal) => return Ok(forward::refuse(call, refusal)),
        }
        if !self.control.joins_sessions().await {
            return forward::forward(&self.upstream, request.map(RequestBody::Streamed), self.control.config.connect_timeout, call).await;
        }
        let (mut head, from_client) = request.into_parts();
        offer_content(&mut head.headers);
        let (to_buildkitd, outgoing) = tunnel::writer(None);
        let request = Request::from_parts(head, RequestBody::Tunnel(outgoing));
        let response = match self.upstream.send(request, self.control.config.connect_timeout).await {
            Ok(response) => response,
            Err(SendError::Unavailable(status)) => return Ok(forward::refuse(call, status)),
            Err(SendError::Reset(error)) => {
                call.ends_with(Code::Unknown);
                return Err(error);
            }
        };
        call.saw(response.headers());
        if call.has_ended() {
            return Ok(response.map(|_| ResponseBody::default()));
        }
        let (head, from_buildkitd) = response.into_parts();
        let (to_client, outgoing) = tunnel::writer(Some(status::trailers(&Status::ok(""))));
        let ends = Ends { buildkitd: Tunnel::new(from_buildkitd, to_buildkitd), client: Tunnel::new(from_client, to_client) };
        let control = Arc::clone(&self.control);
        control.sessions.begin(&id);
        self.control.shutdown.spawn(async move {
            if let Err(error) = Arc::clone(&control).join(ends).await {
                tracing::debug!(%error, "a session broke");
            }
            control.sessions.end(&id);
        });
        Ok(Response::from_parts(head, ResponseBody::tunnel(outgoing, call)))
    }
}

/// The two ends of a session.
struct Ends {
    buildkitd: Tunnel<Incoming>,
    client: Tunnel<Incoming>,
}

impl Control {
    /// Serves a session until one end leaves; the other end's stream ends with it.
    async fn join(self: Arc<Self>, ends: Ends) -> Result<(), hyper::Error> {
        let (sender, client) = limits::client(self.shutdown.clone()).handshake(TokioIo::new(Batched::new(ends.client))).await?;
        let upstream = Arc::new(Upstream::for_session(sender, self.shutdown.clone()));
        let content = (self.content)();
        let service = service_fn(|request| Arc::clone(&self).answer(request, Arc::clone(&upstream), content.clone()));
        let server = limits::server(self.shutdown.clone(), self.config.max_streams);
        let buildkitd = server.serve_connection(TokioIo::new(Batched::new(ends.buildkitd)), service);
        let (buildkitd, client) = (pin!(buildkitd), pin!(client));
        tokio::select! {
            ended = buildkitd => ended,
            ended = client => ended,
        }
    }

    /// Answers one call of buildkitd's.
    async fn answer(
        self: Arc<Self>,
        mut request: Request<Incoming>,
        client: Arc<Upstream>,
        content: Routes,
    ) -> Result<Response<ResponseBody>, hyper::Error> {
        let path = request.uri().path();
        let store = request.headers().get(STORE_ID).and_then(|id| local::access_key_id(id.to_str().ok()?));
        let Some(key) = store.filter(|_| path.starts_with(CONTENT)) else {
            let call = Call::begin(path, self.metrics.clone());
            return forward::forward(&client, request.map(RequestBody::Streamed), Duration::ZERO, call).await;
        };
        let grant = match self.builds.keyring().lookup(key) {
            Ok(credential) if credential.grant.documents().is_some() => credential.grant,
            Ok(_) => return Ok(status::response(Status::permission_denied("this grant is not for a session"))),
            Err(refused) => return Ok(status::response(Status::permission_denied(refused.to_string()))),
        };
        request.extensions_mut().insert(grant);
        let Ok(response) = content.oneshot(request).await;
        Ok(response.map(ResponseBody::Served))
    }
}

/// buildkitd asks for content only where the session offers it, and the client may not.
fn offer_content(headers: &mut HeaderMap) {
    for method in CONTENT_METHODS {
        let path = format!("{CONTENT}{method}");
        let offered = headers.get_all(METHODS).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(path.as_bytes()));
        if !offered && let Ok(value) = HeaderValue::from_str(&path) {
            headers.append(METHODS, value);
        }
    }
}
