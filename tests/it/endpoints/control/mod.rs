//! The control endpoint between a gRPC client and a peer in buildkitd's place.

mod builds;
mod calls;
mod connections;
mod replay;
mod routes;
mod sessions;

use std::collections::HashMap;
use std::io::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http2::SendRequest;
use prost::Message as _;
use remora::auth::{Keyring, Refused};
use remora::cache::{Cache, Settings};
use remora::endpoints::Listener;
use remora::endpoints::content::{self, Content};
use remora::endpoints::control::{Config, Control, Transport};
use remora::metrics::Metrics;
use remora::shutdown::Shutdown;
use remora::store::{Directory, Served, Stores};
use remora::types::{Address, BucketName, Durability, Right};
use tempfile::TempDir;
use tokio::sync::{Notify, mpsc};
use tonic::Code;

use crate::support::buildkitd::{Buildkitd, buildctl};
use crate::support::fake_buildkitd::{Body, Ended, FakeBuildkitd, body, call, connect, data, grpc, headers, message, ok, trailers, whole};
use crate::support::fault_store::{Fault, FaultStore};
use crate::support::log::Log;
use crate::support::settings::settings;

const SOLVE: &str = "/moby.buildkit.v1.Control/Solve";
const GATEWAY_SOLVE: &str = "/moby.buildkit.v1.frontend.LLBBridge/Solve";
const SESSION: &str = "/moby.buildkit.v1.Control/Session";
const ANY: &str = "/made.up.Service/Method";
const CANARY: &str = "CANARY-secret";

/// The parts of BuildKit's messages that tests read and write. (14 is a field that remora does not know.)
#[derive(Clone, PartialEq, prost::Message)]
struct SolveRequest {
    #[prost(string, tag = "1")]
    reference: String,
    #[prost(string, tag = "5")]
    session: String,
    #[prost(map = "string, string", tag = "7")]
    frontend_attrs: HashMap<String, String>,
    #[prost(message, optional, tag = "8")]
    cache: Option<CacheOptions>,
    #[prost(bytes = "bytes", tag = "14")]
    unknown: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct CacheOptions {
    #[prost(message, repeated, tag = "4")]
    exports: Vec<Entry>,
    #[prost(message, repeated, tag = "5")]
    imports: Vec<Entry>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Entry {
    #[prost(string, tag = "1")]
    kind: String,
    #[prost(map = "string, string", tag = "2")]
    attrs: HashMap<String, String>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct GatewayRequest {
    #[prost(message, repeated, tag = "12")]
    imports: Vec<Entry>,
}

fn entry(kind: &str, attrs: &[(&str, &str)]) -> Entry {
    let attrs = attrs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
    Entry { kind: kind.to_owned(), attrs }
}

fn s3_entry(name: &str) -> Entry {
    let secret = |part: &str| format!("{CANARY}-{part}");
    entry(
        "s3",
        &[
            ("name", name),
            ("mode", "max"),
            ("durability", "local"),
            ("access_key_id", &secret("id")),
            ("secret_access_key", &secret("key")),
            ("session_token", &secret("token")),
            ("endpoint_url", &secret("url")),
        ],
    )
}

fn solve_request(reference: &str, cache: CacheOptions) -> SolveRequest {
    SolveRequest { reference: reference.to_owned(), cache: Some(cache), unknown: "new".into(), ..SolveRequest::default() }
}

/// A build that exports to `app` and imports from it.
fn cached_build(reference: &str) -> SolveRequest {
    let cache = CacheOptions { exports: vec![s3_entry("app;main")], imports: vec![s3_entry("app;main"), entry("inline", &[])] };
    let mut request = solve_request(reference, cache);
    let import = &s3_entry("app").attrs;
    let json = serde_json::json!([{"Type": "s3", "Attrs": import}]).to_string();
    request.frontend_attrs.insert("cache-imports".to_owned(), json);
    request
}

fn unary(path: &str, request: &impl prost::Message) -> Request<Body> {
    call(path, whole([data(message(&request.encode_to_vec()))]))
}

/// A control endpoint on a Unix socket, with buildkitd's socket beside it.
struct Endpoint {
    address: Address,
    buildkitd: Address,
    control: Arc<Control>,
    keyring: Keyring,
    metrics: Metrics,
    shutdown: Shutdown,
    faults: FaultStore,
    dir: TempDir,
}

impl Endpoint {
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        Self::with(Keyring::new(Vec::new(), Duration::ZERO), change).await
    }

    async fn with(keyring: Keyring, change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = |name: &str| format!("unix://{}/{name}.sock", dir.path().display()).parse::<Address>().unwrap();
        let (address, buildkitd) = (socket("control"), socket("buildkitd"));
        let bucket: BucketName = "build-cache".parse().unwrap();
        let faults = FaultStore::new(Directory::new(dir.path(), &bucket));
        let served = Served { store: Arc::new(faults.clone()), region: Some("eu-west-1".to_owned()), prefix: String::new() };
        let stores = Stores::Buckets { served: [(bucket.clone(), served)].into(), default: bucket };
        let mut config = Config {
            buildkitd: buildkitd.clone(),
            transport: Transport::Relay,
            advertise: Some("http://127.0.0.1:9190".to_owned()),
            durability: Durability::S3,
            max_message_bytes: 64 << 20,
            connect_timeout: Duration::from_secs(60),
            max_connections: 100,
            max_streams: 1000,
        };
        change(&mut config);
        let metrics = Metrics::default();
        let shutdown = Shutdown::default();
        let settings = Settings { max_open_ingests: 10, ingest_expiry: Duration::from_secs(60), ..settings(dir.path().join("spool")) };
        let cache = Cache::open(stores, settings, metrics.clone(), shutdown.clone()).await.unwrap();
        let content = Content::new(cache.clone(), content::Config { token: None, max_connections: 10, max_streams: 100 }, metrics.clone());
        let control = Control::new(cache, content.for_sessions(), keyring.clone(), config, metrics.clone(), shutdown.clone());
        let control = Arc::new(control);
        let listener = Listener::bind(&address).await.unwrap();
        shutdown.spawn(Arc::clone(&control).serve(listener, shutdown.clone()));
        Self { address, buildkitd, control, keyring, metrics, shutdown, faults, dir }
    }

    async fn client(&self) -> SendRequest<Body> {
        connect(&self.address, &self.shutdown).await
    }

    /// Opens a session of this ID. It stays open for as long as the returned value is kept.
    async fn session(&self, id: &str) -> impl Sized + use<> {
        let (frames, from_client) = body();
        let mut session = call(SESSION, from_client);
        session.headers_mut().insert("x-docker-expose-session-uuid", id.parse().unwrap());
        (frames, self.client().await.send_request(session).await.unwrap())
    }

    /// Makes a call on a connection of its own.
    async fn call(&self, request: Request<Body>) -> Ended {
        let mut client = self.client().await;
        Ended::of(client.send_request(request).await.unwrap()).await.unwrap()
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.shutdown.stop();
    }
}

/// A peer that takes every call whole, hands it over, and answers with an empty message.
async fn recording(address: &Address) -> (FakeBuildkitd, mpsc::UnboundedReceiver<(http::request::Parts, Bytes)>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let peer = FakeBuildkitd::start(address, move |request| {
        let sender = sender.clone();
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            sender.send((head, body)).unwrap();
            ok()
        }
    })
    .await;
    (peer, receiver)
}

/// A session in which buildkitd asks nothing.
fn silent_session() -> Response<Body> {
    let (frames, silence) = body();
    std::mem::forget(frames);
    grpc(silence)
}

/// A peer whose builds run until they are told to end; its other calls are answered at once.
struct Building {
    _peer: FakeBuildkitd,
    started: mpsc::UnboundedReceiver<(String, Bytes)>,
    end: Arc<Notify>,
}

impl Building {
    async fn start(address: &Address) -> Self {
        let (sender, started) = mpsc::unbounded_channel();
        let end = Arc::new(Notify::new());
        let notified = Arc::clone(&end);
        let peer = FakeBuildkitd::start(address, move |request: Request<Incoming>| {
            let sender = sender.clone();
            let end = Arc::clone(&notified);
            async move {
                let path = request.uri().path().to_owned();
                if path == SESSION {
                    return silent_session();
                }
                let body = request.into_body().collect().await.unwrap().to_bytes();
                sender.send((path.clone(), body)).unwrap();
                if path == SOLVE {
                    end.notified().await;
                }
                ok()
            }
        })
        .await;
        Self { _peer: peer, started, end }
    }

    /// The message of the next call.
    async fn next<M: prost::Message + Default>(&mut self, path: &str) -> M {
        let (got, body) = self.started.recv().await.unwrap();
        assert_eq!(got, path);
        M::decode(&body[5..]).unwrap()
    }
}

/// Polls until `reached` is true. A test that waits in vain is ended by its runner.
async fn until(mut met: impl FnMut() -> bool) {
    while !met() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
