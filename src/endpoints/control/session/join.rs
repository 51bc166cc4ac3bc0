//! A build's session, in whose middle remora stands so that it can answer there.
//!
//! The two ends of a `Control/Session` call speak HTTP/2 through it (`grpc::tunnel`): buildkitd calls, the build's
//! client answers. Remora takes both ends and serves one connection on each. It answers calls of containerd's content
//! API that name a store of its own, and forwards every other call, whatever it is.

use std::fmt;
use std::pin::pin;
use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Request, Response};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tonic::Status;
use tonic::service::Routes;
use tower::ServiceExt as _;

use super::entry::access_key_id;
use crate::auth::Keyring;
use crate::endpoints::control::admission::Admission;
use crate::endpoints::control::grpc::batched::Batched;
use crate::endpoints::control::grpc::tunnel::{self, Tunnel};
use crate::endpoints::control::grpc::{limits, status};
use crate::endpoints::control::proxy::{Answered, Call, Proxy, RequestBody, ResponseBody, Upstream};
use crate::shutdown::Shutdown;

/// The path of the call.
pub(crate) const SESSION: &str = "/moby.buildkit.v1.Control/Session";
/// The content store that a call is for (`session/content/attachable.go`, BuildKit v0.33); the first one
/// counts.
const STORE_ID: &str = "buildkit-attachable-store-id";
/// The id of the session, by the client's choice (`session/session.go`).
const ID: &str = "x-docker-expose-session-uuid";
/// The methods that the client offers, one value each (`session/session.go`).
const METHODS: &str = "x-docker-expose-session-grpc-method";
const CONTENT: &str = "/containerd.services.content.v1.Content/";
const CONTENT_METHODS: [&str; 9] = ["Abort", "Delete", "Info", "List", "ListStatuses", "Read", "Status", "Update", "Write"];

/// Makes the content endpoint's services for the calls of one session. They take the grant that comes with
/// a request.
pub type SessionContent = Arc<dyn Fn() -> Routes + Send + Sync>;

/// Serves the sessions in whose middle remora stands.
pub(crate) struct Sessions {
    content: SessionContent,
    keyring: Keyring,
    proxy: Proxy,
    admission: Arc<Admission>,
    shutdown: Shutdown,
    max_streams: u32,
}

/// What that takes.
pub(crate) struct SessionsParts {
    /// Answers the calls that name a store of remora's own.
    pub(crate) content: SessionContent,
    /// Knows the grants that the names of such stores stand for.
    pub(crate) keyring: Keyring,
    /// Forwards all other calls.
    pub(crate) proxy: Proxy,
    /// Is told which sessions are joined.
    pub(crate) admission: Arc<Admission>,
    /// Runs the sessions.
    pub(crate) shutdown: Shutdown,
    /// Calls at once in one session.
    pub(crate) max_streams: u32,
}

impl fmt::Debug for Sessions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sessions").field("admission", &self.admission).finish_non_exhaustive()
    }
}

/// The two ends of a session.
struct SessionEnds {
    buildkitd: Tunnel<Incoming>,
    client: Tunnel<Incoming>,
}

/// The id of the session that a `Control/Session` call opens; empty where it has none.
pub(crate) fn session_id(headers: &HeaderMap) -> String {
    headers.get(ID).and_then(|id| id.to_str().ok()).unwrap_or_default().to_owned()
}

impl Sessions {
    /// Serves sessions with these parts.
    pub(crate) fn new(parts: SessionsParts) -> Self {
        let SessionsParts { content, keyring, proxy, admission, shutdown, max_streams } = parts;
        Self { content, keyring, proxy, admission, shutdown, max_streams }
    }

    /// Serves a `Control/Session` call, in whose middle remora then stands.
    ///
    /// # Errors
    /// The reset of this call by buildkitd.
    pub(crate) async fn serve(self: &Arc<Self>, upstream: &Upstream, request: Request<Incoming>, call: Call) -> Answered {
        let id = session_id(request.headers());
        let (mut head, from_client) = request.into_parts();
        offer_content(&mut head.headers);
        let (to_buildkitd, outgoing) = tunnel::writer(None);
        let request = Request::from_parts(head, RequestBody::Tunnel(outgoing));
        let (response, call) = match self.proxy.send(upstream, request, call).await {
            Ok(sent) => sent,
            Err(ended) => return ended,
        };
        if call.has_code() {
            return Ok(response.map(|_| ResponseBody::default()));
        }
        let (head, from_buildkitd) = response.into_parts();
        let (to_client, outgoing) = tunnel::writer(Some(status::trailers(&Status::ok(""))));
        let ends = SessionEnds { buildkitd: Tunnel::new(from_buildkitd, to_buildkitd), client: Tunnel::new(from_client, to_client) };
        let sessions = Arc::clone(self);
        let joined = self.admission.join(&id);
        self.shutdown.spawn(async move {
            if let Err(error) = sessions.run(ends).await {
                tracing::debug!(%error, "a session broke");
            }
            // Only until here may a build send its cache through the session.
            drop(joined);
        });
        Ok(Response::from_parts(head, ResponseBody::tunnel(outgoing, call)))
    }

    /// Runs a session until one end leaves; the other end's stream ends with it.
    async fn run(self: Arc<Self>, ends: SessionEnds) -> Result<(), hyper::Error> {
        let (sender, client) = limits::client(self.shutdown.clone()).handshake(TokioIo::new(Batched::new(ends.client))).await?;
        let upstream = Arc::new(Upstream::for_session(sender, self.shutdown.clone()));
        let content = (self.content)();
        let service = service_fn(|request| Arc::clone(&self).answer(request, Arc::clone(&upstream), content.clone()));
        let server = limits::server(self.shutdown.clone(), self.max_streams);
        let buildkitd = pin!(server.serve_connection(TokioIo::new(Batched::new(ends.buildkitd)), service));
        let client = pin!(client);
        tokio::select! {
            ended = buildkitd => ended,
            ended = client => ended,
        }
    }

    /// Answers one call of buildkitd's.
    async fn answer(self: Arc<Self>, mut request: Request<Incoming>, client: Arc<Upstream>, content: Routes) -> Answered {
        let path = request.uri().path();
        let store = request.headers().get(STORE_ID).and_then(|id| access_key_id(id.to_str().ok()?));
        let Some(key) = store.filter(|_| path.starts_with(CONTENT)) else {
            let call = self.proxy.begin(path);
            return self.proxy.forward_unread(&client, request, call).await;
        };
        let grant = match self.keyring.lookup(key) {
            Ok(credential) if credential.grant.is_session() => credential.grant,
            Ok(_) => return Ok(status::response(Status::permission_denied("this grant is not for a session"))),
            Err(refused) => return Ok(status::response(Status::permission_denied(refused.to_string()))),
        };
        request.extensions_mut().insert(grant);
        let Ok(response) = content.oneshot(request).await;
        Ok(response.map(ResponseBody::Served))
    }
}

/// Adds the methods of the content API to those that the session offers: buildkitd asks for content only where it is
/// offered, and not every client offers it.
fn offer_content(headers: &mut HeaderMap) {
    for method in CONTENT_METHODS {
        let path = format!("{CONTENT}{method}");
        let offered = headers.get_all(METHODS).iter().any(|value| value.as_bytes().eq_ignore_ascii_case(path.as_bytes()));
        if !offered && let Ok(value) = HeaderValue::from_str(&path) {
            headers.append(METHODS, value);
        }
    }
}
