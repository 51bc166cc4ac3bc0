//! Connections to a peer that answers: to buildkitd, dialled when first needed and again after it has restarted, or to a
//! build's client through its session.

use std::future::Future;
use std::io;
use std::time::Duration;

use http::{HeaderValue, Request, Response, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::TokioIo;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tonic::Status;

use super::request_body::RequestBody;
use crate::endpoints::Connection;
use crate::endpoints::control::grpc::{batched, limits, message, status};
use crate::shutdown::Shutdown;
use crate::types::Address;

/// The first pause between two tries while buildkitd boots. Each pause is twice as long as the one before.
const FIRST_RETRY_PAUSE: Duration = Duration::from_millis(20);
/// The longest pause between two tries.
const MAX_RETRY_PAUSE: Duration = Duration::from_secs(1);

/// How long one try to connect may take.
const DIAL_TIMEOUT: Duration = Duration::from_secs(10);

/// How often a request may move to a new connection when it could not be sent on the old one.
const MAX_MOVES: usize = 3;

/// The largest answer to a call of remora's own. These answers are small.
const MAX_ANSWER_BYTES: usize = 1 << 20;

/// Why there is no response.
#[derive(Debug)]
pub(super) enum SendError {
    /// The peer cannot be reached, or has gone away.
    Unavailable(Status),
    /// The peer reset this one call.
    Reset(hyper::Error),
}

/// Who answers.
#[derive(Debug)]
enum Peer {
    /// buildkitd, which is dialled.
    Buildkitd(Address),
    /// A build's client, through its session. There is no other connection to it.
    Session,
}

impl std::fmt::Display for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Buildkitd(address) => write!(f, "buildkitd at {address}"),
            Self::Session => f.write_str("the build's client"),
        }
    }
}

/// At most one connection to a peer at a time.
#[derive(Debug)]
pub(crate) struct Upstream {
    peer: Peer,
    shutdown: Shutdown,
    /// Whether the connection is kept until the endpoints close, and not only as long as its calls.
    until_closing: bool,
    current: Mutex<Option<SendRequest<RequestBody>>>,
}

impl Upstream {
    /// For the calls of one client.
    pub(crate) fn for_client(buildkitd: Address, shutdown: Shutdown) -> Self {
        Self { peer: Peer::Buildkitd(buildkitd), shutdown, until_closing: false, current: Mutex::default() }
    }

    /// For remora's own calls.
    pub(crate) fn for_management(buildkitd: Address, shutdown: Shutdown) -> Self {
        Self { peer: Peer::Buildkitd(buildkitd), shutdown, until_closing: true, current: Mutex::default() }
    }

    /// For calls through a session.
    pub(crate) fn for_session(sender: SendRequest<RequestBody>, shutdown: Shutdown) -> Self {
        Self { peer: Peer::Session, shutdown, until_closing: false, current: Mutex::new(Some(sender)) }
    }

    /// Sends a request, and waits up to `patience` for buildkitd to be there. A client that has lost its connection to
    /// buildkitd does not wait.
    pub(super) async fn send(&self, mut request: Request<RequestBody>, patience: Duration) -> Result<Response<Incoming>, SendError> {
        for _ in 0..MAX_MOVES {
            let mut connection = self.connection(patience).await.map_err(SendError::Unavailable)?;
            match connection.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(mut failed) => match failed.take_message() {
                    // The connection had closed, or was told to, before the request was sent on it.
                    Some(unsent) => request = unsent,
                    None => {
                        let error = failed.into_error();
                        return Err(if is_reset(&error) { SendError::Reset(error) } else { SendError::Unavailable(self.broken(&error)) });
                    }
                },
            }
        }
        Err(SendError::Unavailable(self.broken(&"connections close as soon as they are made")))
    }

    /// Makes a unary call of remora's own, of whose answer only the status matters.
    pub(crate) async fn call(&self, path: &'static str, message: &[u8], patience: Duration) -> Result<(), Status> {
        let frame = message::frame(message).ok_or_else(|| Status::internal("message over 4 GiB"))?;
        let mut request = Request::post(format!("http://buildkitd{path}"))
            .version(http::Version::HTTP_2)
            .body(RequestBody::Whole(frame))
            .map_err(|error| Status::internal(error.to_string()))?;
        request.headers_mut().insert(header::TE, HeaderValue::from_static("trailers"));
        request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        let response = self.send(request, patience).await.map_err(|error| match error {
            SendError::Unavailable(status) => status,
            SendError::Reset(error) => self.broken(&error),
        })?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(|error| self.broken(&error))?;
        let headers = body.trailers().filter(|trailers| status::code(trailers).is_some()).unwrap_or(&head.headers);
        match Status::from_header_map(headers) {
            Some(status) if status.code() == tonic::Code::Ok => Ok(()),
            Some(status) => Err(status),
            None => Err(self.broken(&"the answer has no status")),
        }
    }

    /// Who answers, for a message to people.
    pub(crate) fn peer(&self) -> String {
        self.peer.to_string()
    }

    /// The open connection, or a new one.
    pub(crate) async fn connection(&self, patience: Duration) -> Result<SendRequest<RequestBody>, Status> {
        let deadline = Instant::now() + patience;
        let mut current = self.current.lock().await;
        if let Some(open) = current.as_ref().filter(|connection| !connection.is_closed()) {
            return Ok(open.clone());
        }
        let Peer::Buildkitd(address) = &self.peer else { return Err(self.broken("it has left its session")) };
        // A client that has lost buildkitd is told so at once, as it would be without remora. What it still wants to
        // send before it ends, such as its traces, does not wait for another buildkitd.
        let lost = current.is_some() && !self.until_closing;
        let deadline = if lost { Instant::now() } else { deadline };
        let mut pause = FIRST_RETRY_PAUSE;
        loop {
            match self.dial(address).await {
                Ok(connection) => return Ok(current.insert(connection).clone()),
                Err(error) if Instant::now() + pause > deadline => return Err(self.unreachable(&error)),
                Err(error) => {
                    tracing::debug!(buildkitd.address = %address, %error, "buildkitd is not there yet");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(MAX_RETRY_PAUSE);
                }
            }
        }
    }

    async fn dial(&self, address: &Address) -> io::Result<SendRequest<RequestBody>> {
        let stream = tokio::time::timeout(DIAL_TIMEOUT, connect(address)).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
        let (sender, connection) =
            limits::client(self.shutdown.clone()).handshake(TokioIo::new(batched::socket(stream))).await.map_err(io::Error::other)?;
        tracing::debug!(buildkitd.address = %address, "connected to buildkitd");
        let address = address.clone();
        let end = self.end();
        self.shutdown.spawn(async move {
            tokio::select! {
                ended = connection => match ended {
                    Ok(()) => tracing::debug!(buildkitd.address = %address, "connection to buildkitd closed"),
                    Err(error) => tracing::debug!(buildkitd.address = %address, %error, "connection to buildkitd broke"),
                },
                () = end => {}
            }
        });
        Ok(sender)
    }

    fn end(&self) -> impl Future<Output = ()> + Send + 'static {
        let shutdown = self.shutdown.clone();
        let until_closing = self.until_closing;
        async move {
            if until_closing {
                shutdown.closing().await;
            } else {
                std::future::pending::<()>().await;
            }
        }
    }

    fn unreachable(&self, error: &io::Error) -> Status {
        Status::unavailable(format!("remora cannot reach {}: {error}", self.peer))
    }

    /// The status of a call that the peer left without an end.
    pub(super) fn broken(&self, why: &(impl std::fmt::Display + ?Sized)) -> Status {
        Status::unavailable(format!("remora lost the connection to {}: {why}", self.peer))
    }
}

async fn connect(address: &Address) -> io::Result<Connection> {
    match address {
        Address::Unix(path) => Ok(Connection::Unix(UnixStream::connect(path).await?)),
        Address::Tcp(host_port) => {
            let stream = TcpStream::connect(host_port).await?;
            stream.set_nodelay(true)?;
            Ok(Connection::Tcp(stream))
        }
    }
}

/// Whether the peer reset one stream. Otherwise the connection broke.
pub(super) fn is_reset(error: &hyper::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<h2::Error>() {
            return error.is_reset() && error.is_remote();
        }
        cause = error.source();
    }
    false
}
