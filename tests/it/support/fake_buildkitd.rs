//! A gRPC peer in buildkitd's place that answers as it is told, for what the real one cannot show.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use remora::endpoints::{Listener, accept_loop};
use remora::shutdown::Shutdown;
use remora::types::Address;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// A body whose frames are sent one by one; dropping the sender ends it.
pub(crate) type Body = StreamBody<ReceiverStream<Result<Frame<Bytes>, h2::Error>>>;
/// The sending half of a [`Body`].
pub(crate) type Frames = mpsc::Sender<Result<Frame<Bytes>, h2::Error>>;

/// A body and what feeds it.
pub(crate) fn body() -> (Frames, Body) {
    let (frames, receiver) = mpsc::channel(64);
    (frames, StreamBody::new(ReceiverStream::new(receiver)))
}

/// A body of these frames.
pub(crate) fn whole(frames: impl IntoIterator<Item = Frame<Bytes>>) -> Body {
    let (sender, body) = body();
    for frame in frames {
        sender.try_send(Ok(frame)).unwrap();
    }
    body
}

pub(crate) fn data(bytes: impl Into<Bytes>) -> Frame<Bytes> {
    Frame::data(bytes.into())
}

pub(crate) fn trailers(pairs: &[(&'static str, &str)]) -> Frame<Bytes> {
    Frame::trailers(headers(pairs))
}

pub(crate) fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
    pairs.iter().map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap())).collect()
}

/// A gRPC message of a unary call, with its prefix.
pub(crate) fn message(payload: &[u8]) -> Bytes {
    [&[0][..], &u32::try_from(payload.len()).unwrap().to_be_bytes(), payload].concat().into()
}

/// A response that begins with `application/grpc` headers.
pub(crate) fn grpc(body: Body) -> Response<Body> {
    Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

/// An empty message and status 0.
pub(crate) fn ok() -> Response<Body> {
    grpc(whole([data(message(b"")), trailers(&[("grpc-status", "0")])]))
}

#[derive(Debug, Clone)]
struct Tasks(Shutdown);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}

/// A peer in buildkitd's place. Dropping it is like killing it.
pub(crate) struct FakeBuildkitd {
    shutdown: Shutdown,
}

impl FakeBuildkitd {
    /// Answers every call on `address` with `answer`.
    pub(crate) async fn start<A, F>(address: &Address, answer: A) -> Self
    where
        A: Fn(Request<Incoming>) -> F + Send + Sync + 'static,
        F: Future<Output = Response<Body>> + Send + 'static,
    {
        let shutdown = Shutdown::default();
        let listener = Listener::bind(address).await.unwrap();
        let answer = Arc::new(answer);
        let tasks = Tasks(shutdown.clone());
        let serve = move |connection, _| {
            let answer = Arc::clone(&answer);
            let tasks = tasks.clone();
            async move {
                let service = service_fn(move |request| {
                    let response = answer(request);
                    async move { Ok::<_, Infallible>(response.await) }
                });
                let mut server = hyper::server::conn::http2::Builder::new(tasks);
                server.max_header_list_size(1 << 20).max_concurrent_streams(10_000).auto_date_header(false);
                let _ = server.serve_connection(TokioIo::new(connection), service).await;
            }
        };
        shutdown.spawn(accept_loop(listener, shutdown.clone(), 100, serve));
        Self { shutdown }
    }
}

impl FakeBuildkitd {
    /// Kills it and waits until its socket is free.
    pub(crate) async fn kill(self) {
        self.shutdown.finish(Duration::ZERO).await;
    }
}

impl Drop for FakeBuildkitd {
    fn drop(&mut self) {
        self.shutdown.stop();
    }
}

/// A gRPC client's connection, over a Unix socket.
pub(crate) async fn connect(address: &Address, shutdown: &Shutdown) -> SendRequest<Body> {
    let Address::Unix(path) = address else { panic!("{address} is no Unix socket") };
    let stream = tokio::net::UnixStream::connect(path).await.unwrap();
    let mut client = hyper::client::conn::http2::Builder::new(Tasks(shutdown.clone()));
    client.max_header_list_size(1 << 20).initial_stream_window_size(1 << 20);
    let (sender, connection) = client.handshake(TokioIo::new(stream)).await.unwrap();
    shutdown.spawn(async move {
        let _ = connection.await;
    });
    sender
}

/// A gRPC call as grpc-go makes it.
pub(crate) fn call(path: &str, body: Body) -> Request<Body> {
    Request::post(format!("http://localhost{path}"))
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .header("user-agent", "grpc-go/1.80.0")
        .body(body)
        .unwrap()
}

/// How a call ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
    pub(crate) trailers: Option<HeaderMap>,
}

impl Ended {
    pub(crate) async fn of(response: Response<Incoming>) -> Result<Self, hyper::Error> {
        let (head, body) = response.into_parts();
        let body = body.collect().await?;
        Ok(Self { headers: head.headers, trailers: body.trailers().cloned(), body: body.to_bytes() })
    }

    /// The status, from the headers or the trailers; one of our own where there is none.
    pub(crate) fn status(&self) -> tonic::Status {
        let trailers = self.trailers.as_ref().and_then(tonic::Status::from_header_map);
        trailers.or_else(|| tonic::Status::from_header_map(&self.headers)).unwrap_or_else(|| tonic::Status::internal("no status"))
    }
}
