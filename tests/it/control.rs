//! The control endpoint between a gRPC client and a peer in buildkitd's place.

use std::collections::HashMap;
use std::io::Write;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
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
use remora::types::{Address, BucketName, Right};
use tempfile::TempDir;
use tokio::sync::{Notify, mpsc};
use tonic::Code;

use crate::support::buildkitd::{
    Body, Buildkitd, Ended, FakeBuildkitd, body, buildctl, call, connect, data, grpc, headers, message, ok, trailers, whole,
};

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
struct Sidecar {
    address: Address,
    buildkitd: Address,
    control: Arc<Control>,
    keyring: Keyring,
    metrics: Metrics,
    shutdown: Shutdown,
    _dir: TempDir,
}

impl Sidecar {
    async fn start(change: impl FnOnce(&mut Config)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let socket = |name: &str| format!("unix://{}/{name}.sock", dir.path().display()).parse::<Address>().unwrap();
        let (address, buildkitd) = (socket("control"), socket("buildkitd"));
        let bucket: BucketName = "build-cache".parse().unwrap();
        let store = Arc::new(Directory::new(dir.path(), &bucket));
        let served = Served { store, region: Some("eu-west-1".to_owned()), prefix: String::new() };
        let stores = Stores::Buckets { served: [(bucket.clone(), served)].into(), default: bucket };
        let mut config = Config {
            buildkitd: buildkitd.clone(),
            transport: Transport::Relay,
            advertise: Some("http://127.0.0.1:9190".to_owned()),
            max_message_bytes: 64 << 20,
            connect_timeout: Duration::from_secs(60),
            max_connections: 100,
        };
        change(&mut config);
        let (keyring, metrics, shutdown) = (Keyring::new(Vec::new(), Duration::ZERO), Metrics::default(), Shutdown::default());
        let settings = Settings {
            spool_dir: dir.path().join("spool"),
            max_manifest_bytes: 1 << 20,
            max_open_ingests: 10,
            ingest_expiry: Duration::from_secs(60),
            presence_max_age: Duration::from_secs(600),
            merge: None,
            transfer_memory: 32 << 20,
        };
        let cache = Cache::open(stores, settings, metrics.clone(), shutdown.clone()).await.unwrap();
        let content = Content::new(cache.clone(), content::Config { token: None, max_connections: 10 }, metrics.clone());
        let control = Control::new(cache, content.for_sessions(), keyring.clone(), config, metrics.clone(), shutdown.clone());
        let control = Arc::new(control);
        let listener = Listener::bind(&address).await.unwrap();
        shutdown.spawn(Arc::clone(&control).serve(listener, shutdown.clone()));
        Self { address, buildkitd, control, keyring, metrics, shutdown, _dir: dir }
    }

    async fn client(&self) -> SendRequest<Body> {
        connect(&self.address, &self.shutdown).await
    }

    /// Makes a call on a connection of its own.
    async fn call(&self, request: Request<Body>) -> Ended {
        let mut client = self.client().await;
        Ended::of(client.send_request(request).await.unwrap()).await.unwrap()
    }
}

impl Drop for Sidecar {
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
            let (sender, end) = (sender.clone(), Arc::clone(&notified));
            async move {
                let path = request.uri().path().to_owned();
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

/// Everything that the library logs on this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    fn capture() -> (Self, tracing::subscriber::DefaultGuard) {
        let log = Self::default();
        let writer = log.clone();
        let subscriber =
            tracing_subscriber::fmt().with_max_level(tracing::Level::TRACE).with_ansi(false).with_writer(move || writer.clone()).finish();
        (log, tracing::subscriber::set_default(subscriber))
    }

    fn lines(&self, wanted: &str) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        text.lines().filter(|line| line.contains(wanted)).map(str::to_owned).collect()
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

/// Polls until it is true; a test that waits in vain is ended by its runner.
async fn until(mut met: impl FnMut() -> bool) {
    while !met() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

// ---- passing through ----

#[tokio::test]
async fn headers_messages_and_trailers_pass_unchanged() {
    let sidecar = Sidecar::start(|_| {}).await;
    let (sender, mut received) = mpsc::unbounded_channel();
    let _peer = FakeBuildkitd::start(&sidecar.buildkitd, move |request: Request<Incoming>| {
        let sender = sender.clone();
        async move {
            let (head, body) = request.into_parts();
            sender.send((head, body.collect().await.unwrap().to_bytes())).unwrap();
            let mut response = grpc(whole([
                data("one"),
                data("two"),
                trailers(&[("grpc-status", "5"), ("grpc-status-details-bin", &"x".repeat(100_000))]),
            ]));
            response.headers_mut().insert("leading", "metadata".parse().unwrap());
            response
        }
    })
    .await;
    let mut request = call(ANY, whole([data("not even "), data("gRPC")]));
    request.headers_mut().extend(headers(&[("grpc-timeout", "29999m"), ("some-bin", "AAEC"), ("some", "1")]));
    request.headers_mut().append("some", "2".parse().unwrap());
    let sent = request.headers().clone();
    let ended = sidecar.call(request).await;

    let (head, body) = received.recv().await.unwrap();
    assert_eq!((head.uri.path(), head.uri.authority().unwrap().as_str(), &body[..]), (ANY, "localhost", &b"not even gRPC"[..]));
    assert_eq!(head.headers, sent);
    assert_eq!(ended.headers, headers(&[("content-type", "application/grpc"), ("leading", "metadata")]));
    assert_eq!(&ended.body[..], b"onetwo");
    assert_eq!(ended.trailers.unwrap(), headers(&[("grpc-status", "5"), ("grpc-status-details-bin", &"x".repeat(100_000))]));
}

#[tokio::test]
async fn a_response_of_headers_alone_stays_one_and_may_come_early() {
    let sidecar = Sidecar::start(|_| {}).await;
    let _peer = FakeBuildkitd::start(&sidecar.buildkitd, |_| async {
        let mut response = Response::new(whole([]));
        *response.headers_mut() =
            headers(&[("content-type", "application/grpc"), ("grpc-status", "12"), ("grpc-message", "no such method")]);
        response
    })
    .await;
    let (_never_ends, request) = body();
    let response = sidecar.client().await.send_request(call(ANY, request)).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "12");
    let ended = Ended::of(response).await.unwrap();
    assert_eq!((ended.status().message(), ended.trailers.as_ref(), ended.body.len()), ("no such method", None, 0));
}

#[tokio::test]
async fn both_sides_stream_and_half_close() {
    let sidecar = Sidecar::start(|_| {}).await;
    let _peer = FakeBuildkitd::start(&sidecar.buildkitd, |request: Request<Incoming>| async {
        let (frames, response) = body();
        let mut request = request.into_body();
        let shutdown = Shutdown::default();
        shutdown.spawn(async move {
            while let Some(Ok(frame)) = request.frame().await {
                frames.send(Ok(frame)).await.unwrap();
            }
            frames.send(Ok(data("after the half-close"))).await.unwrap();
            frames.send(Ok(trailers(&[("grpc-status", "0")]))).await.unwrap();
        });
        grpc(response)
    })
    .await;
    let (frames, request) = body();
    let mut response = sidecar.client().await.send_request(call(SESSION, request)).await.unwrap().into_body();
    for text in ["one", "two"] {
        frames.send(Ok(data(text))).await.unwrap();
        assert_eq!(response.frame().await.unwrap().unwrap().into_data().unwrap(), text);
    }
    drop(frames);
    assert_eq!(response.frame().await.unwrap().unwrap().into_data().unwrap(), "after the half-close");
    assert_eq!(response.frame().await.unwrap().unwrap().into_trailers().unwrap()["grpc-status"], "0");
}

/// Tells when it is dropped.
struct OnDrop(Arc<Notify>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tokio::test]
async fn cancellation_reaches_buildkitd_before_and_after_the_response_began() {
    let sidecar = Sidecar::start(|_| {}).await;
    let (arrived, gone) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell_arrived, tell_gone) = (Arc::clone(&arrived), Arc::clone(&gone));
    let _peer = FakeBuildkitd::start(&sidecar.buildkitd, move |request: Request<Incoming>| {
        let gone = OnDrop(Arc::clone(&tell_gone));
        tell_arrived.notify_one();
        async move {
            if request.uri().path() == SOLVE {
                std::future::pending::<()>().await;
            }
            let (frames, response) = body();
            let shutdown = Shutdown::default();
            shutdown.spawn(async move {
                frames.send(Ok(data("begun"))).await.unwrap();
                frames.closed().await;
                drop(gone);
            });
            grpc(response)
        }
    })
    .await;
    let mut client = sidecar.client().await;
    // A unary call without an answer yet.
    tokio::select! {
        _ = client.send_request(unary(SOLVE, &solve_request("ref", CacheOptions::default()))) => panic!("answered"),
        () = arrived.notified() => {}
    }
    gone.notified().await;
    // A stream in both directions.
    let (_frames, request) = body();
    let mut response = client.send_request(call(SESSION, request)).await.unwrap().into_body();
    response.frame().await.unwrap().unwrap();
    drop(response);
    drop(_frames);
    gone.notified().await;
}

#[tokio::test]
async fn a_reset_by_buildkitd_is_passed_on() {
    let sidecar = Sidecar::start(|_| {}).await;
    let _peer = FakeBuildkitd::start(&sidecar.buildkitd, |_| async {
        // hyper resets the stream of a body that fails, for its reason.
        let (frames, response) = body();
        frames.send(Ok(data("begun"))).await.unwrap();
        frames.send(Err(h2::Reason::ENHANCE_YOUR_CALM.into())).await.unwrap();
        grpc(response)
    })
    .await;
    let error = match sidecar.client().await.send_request(call(ANY, whole([]))).await {
        Ok(response) => Ended::of(response).await.unwrap_err(),
        Err(error) => error,
    };
    let reason = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<h2::Error>()).and_then(h2::Error::reason);
    assert_eq!(reason, Some(h2::Reason::ENHANCE_YOUR_CALM), "{error:?}");
}

#[tokio::test]
async fn a_message_of_32_mib_passes_both_ways() {
    let sidecar = Sidecar::start(|_| {}).await;
    let _peer = FakeBuildkitd::start(&sidecar.buildkitd, |request: Request<Incoming>| async {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        grpc(whole([data(body), trailers(&[("grpc-status", "0")])]))
    })
    .await;
    let large = message(&vec![7; 32 << 20]);
    let request = solve_request("ref", CacheOptions { exports: vec![entry("inline", &[("x", &"y".repeat(32 << 20))])], imports: vec![] });
    for request in [call(ANY, whole([data(large)])), unary(SOLVE, &request)] {
        let (head, sent) = request.into_parts();
        let sent = sent.collect().await.unwrap().to_bytes();
        let ended = sidecar.call(Request::from_parts(head, whole([data(sent.clone())]))).await;
        assert!(ended.body == sent && ended.status().code() == Code::Ok, "{} of {} bytes", ended.body.len(), sent.len());
    }
}

#[tokio::test]
async fn sixty_four_streams_run_at_once_on_one_connection() {
    let sidecar = Sidecar::start(|_| {}).await;
    let all_here = Arc::new(tokio::sync::Barrier::new(64));
    let _peer = FakeBuildkitd::start(&sidecar.buildkitd, move |request: Request<Incoming>| {
        let all_here = Arc::clone(&all_here);
        async move {
            all_here.wait().await;
            let body = request.into_body().collect().await.unwrap().to_bytes();
            grpc(whole([data(body), trailers(&[("grpc-status", "0")])]))
        }
    })
    .await;
    let client = sidecar.client().await;
    let calls = (0..64u8).map(|number| {
        let mut client = client.clone();
        async move {
            let sent = Bytes::from(vec![number; 300_000]);
            let ended = Ended::of(client.send_request(call(ANY, whole([data(sent.clone())]))).await.unwrap()).await.unwrap();
            assert!(ended.body == sent && ended.status().code() == Code::Ok);
        }
    });
    futures_util::future::join_all(calls).await;
}

// ---- buildkitd comes and goes ----

#[tokio::test]
async fn a_call_waits_for_buildkitd_to_be_there() {
    let sidecar = Sidecar::start(|_| {}).await;
    let mut client = sidecar.client().await;
    let mut waiting = std::pin::pin!(client.send_request(unary(SOLVE, &solve_request("ref", CacheOptions::default()))));
    tokio::select! {
        early = &mut waiting => panic!("{early:?}"),
        () = tokio::time::sleep(Duration::from_millis(200)) => {}
    }
    assert!(sidecar.control.check_buildkitd().await.unwrap_err().contains("buildkitd.sock"));
    let _peer = recording(&sidecar.buildkitd).await;
    assert_eq!(Ended::of(waiting.await.unwrap()).await.unwrap().status().code(), Code::Ok);
    assert_eq!(sidecar.control.check_buildkitd().await, Ok(()));
}

#[tokio::test]
async fn an_absent_buildkitd_is_unavailable_by_name() {
    let sidecar = Sidecar::start(|config| config.connect_timeout = Duration::from_millis(50)).await;
    for path in [ANY, SOLVE] {
        let ended = sidecar.call(call(path, whole([data(message(b""))]))).await;
        assert_eq!(ended.status().code(), Code::Unavailable);
        assert!(ended.status().message().contains(&format!("buildkitd at {}", sidecar.buildkitd)), "{}", ended.status().message());
    }
    assert!(sidecar.metrics.encode().contains(r#"operation="Control/Solve",class="failed"} 1"#), "{}", sidecar.metrics.encode());
}

#[tokio::test]
async fn a_buildkitd_that_dies_ends_its_calls_and_the_next_one_finds_its_successor() {
    let sidecar = Sidecar::start(|_| {}).await;
    let begun = |_| async {
        let (frames, response) = body();
        frames.send(Ok(data("begun"))).await.unwrap();
        let shutdown = Shutdown::default();
        shutdown.spawn(async move { frames.closed().await });
        grpc(response)
    };
    let first = FakeBuildkitd::start(&sidecar.buildkitd, begun).await;
    let mut client = sidecar.client().await;
    let mut streaming = client.send_request(call(ANY, whole([]))).await.unwrap().into_body();
    streaming.frame().await.unwrap().unwrap();
    first.kill().await;
    let end = streaming.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(end["grpc-status"], "14");
    assert!(end["grpc-message"].to_str().unwrap().contains(&sidecar.buildkitd.to_string()), "{end:?}");
    // The client may still have something to say before it ends: it does not wait for the successor.
    let lost = tokio::time::timeout(Duration::from_secs(10), client.send_request(call(ANY, whole([])))).await;
    assert_eq!(Ended::of(lost.expect("at once").unwrap()).await.unwrap().status().code(), Code::Unavailable);
    let _second = recording(&sidecar.buildkitd).await;
    let ended = Ended::of(client.send_request(call(ANY, whole([]))).await.unwrap()).await.unwrap();
    assert_eq!(ended.status().code(), Code::Ok);
}

#[tokio::test]
async fn a_drain_lets_builds_finish_and_refuses_new_clients() {
    let sidecar = Sidecar::start(|_| {}).await;
    let mut peer = Building::start(&sidecar.buildkitd).await;
    assert_eq!(sidecar.control.check_buildkitd().await, Ok(()));
    peer.next::<GatewayRequest>("/moby.buildkit.v1.Control/Info").await;
    let idle = sidecar.client().await;
    let mut client = sidecar.client().await;
    let build = client.clone().send_request(unary(SOLVE, &cached_build("ref")));
    let mut build = std::pin::pin!(build);
    tokio::select! {
        _ = &mut build => panic!("answered"),
        _ = peer.next::<SolveRequest>(SOLVE) => {}
    }
    sidecar.shutdown.drain();
    let Address::Unix(path) = &sidecar.address else { panic!() };
    until(|| std::os::unix::net::UnixStream::connect(path).is_err()).await;
    until(|| idle.is_closed()).await;
    // A build in flight may go on making calls.
    assert_eq!(Ended::of(client.send_request(call(ANY, whole([]))).await.unwrap()).await.unwrap().status().code(), Code::Ok);
    peer.end.notify_one();
    assert_eq!(Ended::of(build.await.unwrap()).await.unwrap().status().code(), Code::Ok);
    until(|| client.is_closed()).await;
    drop((idle, client));
    assert!(sidecar.shutdown.finish(Duration::from_secs(30)).await, "{} tasks are left", sidecar.shutdown.tasks());
}

// ---- cache options ----

#[tokio::test]
async fn a_build_gets_grants_in_place_of_its_credentials_and_they_end_with_it() {
    let (log, _guard) = Log::capture();
    let sidecar = Sidecar::start(|_| {}).await;
    let mut peer = Building::start(&sidecar.buildkitd).await;
    let sent = cached_build("the-ref");
    let mut client = sidecar.client().await;
    let mut build = std::pin::pin!(client.clone().send_request(unary(SOLVE, &sent)));
    let received: SolveRequest = tokio::select! {
        _ = &mut build => panic!("answered"),
        received = peer.next(SOLVE) => received,
    };
    let text = String::from_utf8_lossy(&received.encode_to_vec()).into_owned();
    assert!(!text.contains(CANARY), "{text}");
    assert_eq!((received.reference.as_str(), &received.unknown[..]), ("the-ref", &b"new"[..]));
    let cache = received.cache.unwrap();
    assert_eq!(cache.imports[1], entry("inline", &[]));
    let (export, import) = (&cache.exports[0].attrs, &cache.imports[0].attrs);
    for attrs in [export, import] {
        let place = [("bucket", "build-cache"), ("region", "eu-west-1"), ("prefix", ""), ("endpoint_url", "http://127.0.0.1:9190")];
        for (key, value) in place.into_iter().chain([("use_path_style", "true"), ("mode", "max"), ("name", "app;main")]) {
            assert_eq!(attrs.get(key).map(String::as_str), Some(value), "{key} in {attrs:?}");
        }
        assert_eq!(attrs.len(), 9, "{attrs:?}");
    }
    let json: serde_json::Value = serde_json::from_str(&received.frontend_attrs["cache-imports"]).unwrap();
    assert_eq!(json[0]["Attrs"]["access_key_id"], import["access_key_id"]);

    // What the keys open.
    let (app, main) = ("app".parse().unwrap(), "main".parse().unwrap());
    let reader = sidecar.keyring.lookup(&import["access_key_id"]).unwrap().grant;
    assert!(reader.check_manifest(Right::Read, &app).is_ok() && reader.check_manifest(Right::Read, &main).is_err());
    assert!(reader.check_manifest(Right::Write, &app).is_err());
    let writer = sidecar.keyring.lookup(&export["access_key_id"]).unwrap().grant;
    assert!(writer.check_manifest(Right::Write, &main).is_ok() && writer.check_manifest(Right::Read, &main).is_err());

    // A gateway call of the build has the same import grant; one of no build has none.
    for (id, wanted) in [("the-ref", 1), ("another", 0)] {
        let mut request = unary(GATEWAY_SOLVE, &GatewayRequest { imports: vec![s3_entry("app;main")] });
        request.headers_mut().extend(headers(&[("buildkit-controlapi-buildid", id)]));
        assert_eq!(Ended::of(client.send_request(request).await.unwrap()).await.unwrap().status().code(), Code::Ok);
        let forwarded: GatewayRequest = peer.next(GATEWAY_SOLVE).await;
        assert_eq!(forwarded.imports.len(), wanted);
        assert!(forwarded.imports.iter().all(|forwarded| forwarded.attrs == *import));
    }

    assert!(sidecar.metrics.encode().contains("remora_builds_running 1"));
    peer.end.notify_one();
    Ended::of(build.await.unwrap()).await.unwrap();
    until(|| sidecar.keyring.lookup(&import["access_key_id"]).is_err()).await;
    assert_eq!(sidecar.keyring.lookup(&export["access_key_id"]).unwrap_err(), Refused::Ended);
    let metrics = sidecar.metrics.encode();
    assert!(metrics.contains("remora_builds_running 0") && metrics.contains(r#"remora_builds_total{transport="relay"} 1"#), "{metrics}");
    let summaries = log.lines("build the-ref: imported app: nothing there, exported app, main: 0 new layers");
    assert!(summaries.len() == 1 && summaries[0].contains("; ok in "), "{summaries:?}");
    assert_eq!(log.lines("remora::").iter().filter(|line| line.contains(CANARY)).count(), 0);
    for grant in [import, export] {
        assert_eq!(log.lines(&grant["secret_access_key"]), Vec::<String>::new());
    }
}

#[tokio::test]
async fn a_cancelled_build_loses_its_grants() {
    let sidecar = Sidecar::start(|_| {}).await;
    let mut peer = Building::start(&sidecar.buildkitd).await;
    let mut client = sidecar.client().await;
    tokio::select! {
        _ = client.send_request(unary(SOLVE, &cached_build("ref"))) => panic!("answered"),
        _ = peer.next::<SolveRequest>(SOLVE) => assert_eq!(sidecar.keyring.live_grants(), 2),
    }
    until(|| sidecar.keyring.live_grants() == 0).await;
}

#[tokio::test]
async fn a_build_without_s3_entries_is_forwarded_bit_by_bit() {
    let sidecar = Sidecar::start(|_| {}).await;
    let (_peer, mut received) = recording(&sidecar.buildkitd).await;
    let mut request =
        solve_request("ref", CacheOptions { exports: vec![entry("registry", &[("ref", "x")])], imports: vec![entry("inline", &[])] });
    request.frontend_attrs.insert("cache-imports".to_owned(), r#" [{"Type" : "gha"}]"#.to_owned());
    let plain = message(&request.encode_to_vec());
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(&request.encode_to_vec()).unwrap();
    let mut packed = message(&packed.finish().unwrap()).to_vec();
    packed[0] = 1;
    for (encoding, sent) in [("identity", plain), ("gzip", packed.into())] {
        let mut request = call(SOLVE, whole([data(sent.slice(..7)), data(sent.slice(7..))]));
        request.headers_mut().extend(headers(&[("grpc-encoding", encoding)]));
        assert_eq!(sidecar.call(request).await.status().code(), Code::Ok);
        let (head, body) = received.recv().await.unwrap();
        assert_eq!(body, sent);
        assert!(head.headers["grpc-encoding"] == encoding && !head.headers.contains_key("content-length"));
    }
    assert!(!sidecar.metrics.encode().contains("remora_builds_total{"));
}

#[tokio::test]
async fn a_compressed_build_is_patched_and_sent_plain() {
    let sidecar = Sidecar::start(|_| {}).await;
    let (_peer, mut received) = recording(&sidecar.buildkitd).await;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(&cached_build("ref").encode_to_vec()).unwrap();
    let mut packed = message(&packed.finish().unwrap()).to_vec();
    packed[0] = 1;
    let mut request = call(SOLVE, whole([data(packed)]));
    request.headers_mut().extend(headers(&[("grpc-encoding", "gzip")]));
    assert_eq!(sidecar.call(request).await.status().code(), Code::Ok);
    let (_, body) = received.recv().await.unwrap();
    assert_eq!(body[0], 0);
    let forwarded = SolveRequest::decode(&body[5..]).unwrap();
    assert_eq!(forwarded.cache.unwrap().exports[0].attrs["endpoint_url"], "http://127.0.0.1:9190");
}

#[tokio::test]
async fn what_is_not_served_fails_the_build_with_what_is() {
    let sidecar = Sidecar::start(|_| {}).await;
    let (_peer, mut received) = recording(&sidecar.buildkitd).await;
    for (attribute, value) in [("bucket", "other-bucket"), ("bucket", "../x"), ("region", "mars-1"), ("prefix", "../"), ("name", "a;..")] {
        let request = solve_request("ref", CacheOptions { exports: vec![], imports: vec![entry("s3", &[(attribute, value)])] });
        let ended = sidecar.call(unary(SOLVE, &request)).await;
        assert_eq!(ended.status().code(), Code::InvalidArgument);
        let status = ended.status();
        let text = status.message();
        assert!(text.contains(attribute) && text.contains("this remora serves bucket build-cache (region eu-west-1)"), "{text}");
    }
    assert!(received.try_recv().is_err());
}

#[tokio::test]
async fn damaged_and_oversized_messages_are_refused() {
    let sidecar = Sidecar::start(|config| config.max_message_bytes = 1000).await;
    let (_peer, mut received) = recording(&sidecar.buildkitd).await;
    for path in [SOLVE, GATEWAY_SOLVE] {
        for sent in [message(&[0x3a, 0x7f]), message(&[0x07]), Bytes::from_static(&[0, 0, 0, 0, 9, 1]), Bytes::new()] {
            let ended = sidecar.call(call(path, whole([data(sent)]))).await;
            assert_eq!(ended.status().code(), Code::InvalidArgument, "{}", ended.status().message());
        }
        let ended = sidecar.call(call(path, whole([data(message(&[0x3a, 0x7f]))]))).await;
        assert!(path != SOLVE || ended.status().message().contains(path), "{}", ended.status().message());
        // Refused by its declared length alone.
        let (frames, endless) = body();
        frames.send(Ok(data(message(&[0; 2000]).slice(..20)))).await.unwrap();
        let ended = sidecar.call(call(path, endless)).await;
        assert!(
            ended.status().code() == Code::ResourceExhausted && ended.status().message().contains("max_message_bytes"),
            "{}",
            ended.status().message()
        );
    }
    while let Ok((_, body)) = received.try_recv() {
        // What is no field of a gateway call that remora reads is buildkitd's to judge.
        assert_eq!(body, message(&[0x3a, 0x7f]));
    }
}

// ---- where the cache goes ----

#[tokio::test]
async fn a_builder_without_a_way_to_the_s3_endpoint_is_served_through_its_session() {
    let url = || Some("http://127.0.0.1:9190".to_owned());
    for (transport, advertise, advice) in [
        (Transport::Relay, None, Some("set --s3")),
        (Transport::Session, url(), None),
        (Transport::Auto, url(), Some("set --s3 and --s3-advertise")),
    ] {
        let (log, _guard) = Log::capture();
        let sidecar = Sidecar::start(|config| (config.transport, config.advertise) = (transport, advertise)).await;
        let (sender, mut received) = mpsc::unbounded_channel();
        let _peer = FakeBuildkitd::start(&sidecar.buildkitd, move |request: Request<Incoming>| {
            let sender = sender.clone();
            async move {
                if request.uri().path() == SESSION {
                    // It says nothing, and stays.
                    let (frames, silence) = body();
                    std::mem::forget(frames);
                    return grpc(silence);
                }
                let body = request.into_body().collect().await.unwrap().to_bytes();
                if SolveRequest::decode(&body[5..]).unwrap().reference.starts_with("remora-probe") {
                    return grpc(whole([trailers(&[("grpc-status", "2"), ("grpc-message", "connection refused")])]));
                }
                sender.send(body).unwrap();
                ok()
            }
        })
        .await;
        let (_frames, from_client) = body();
        let mut session = call(SESSION, from_client);
        session.headers_mut().insert("x-docker-expose-session-uuid", "the-session".parse().unwrap());
        let _session = sidecar.client().await.send_request(session).await.unwrap();
        let build = SolveRequest { session: "the-session".to_owned(), ..cached_build("the-ref") };
        assert_eq!(sidecar.call(unary(SOLVE, &build)).await.status().code(), Code::Ok);
        let forwarded = SolveRequest::decode(&received.recv().await.unwrap()[5..]).unwrap();
        let cache = forwarded.cache.unwrap();
        let [export] = &cache.exports[..] else { panic!("{cache:?}") };
        assert_eq!(export.kind, "local");
        assert!(export.attrs["dest"].starts_with("remora-RMRA"), "{export:?}");
        let of_s3 = ["bucket", "region", "name", "access_key_id", "secret_access_key", "session_token", "endpoint_url"];
        assert!(of_s3.iter().all(|attr| !export.attrs.contains_key(*attr)), "{export:?}");
        // There is no such manifest, so there is nothing to import.
        assert_eq!(cache.imports, vec![entry("inline", &[])]);
        assert_eq!(forwarded.frontend_attrs["cache-imports"], "[]");
        assert_eq!(&forwarded.unknown[..], b"new");
        let warnings = log.lines("WARN");
        assert_eq!(warnings.len(), usize::from(advice.is_some()), "{warnings:?}");
        assert!(warnings.iter().all(|line| line.contains(advice.unwrap()) && line.contains("the-ref")), "{warnings:?}");
        until(|| log.lines("build the-ref: imported").len() == 1).await;
        assert!(sidecar.metrics.encode().contains(r#"remora_builds_total{transport="session"} 1"#));
    }
}

#[tokio::test]
async fn buildkitd_is_asked_once_until_it_restarts() {
    let sidecar = Sidecar::start(|config| config.transport = Transport::Auto).await;
    let probes = Arc::new(AtomicUsize::new(0));
    let start = || {
        let probes = Arc::clone(&probes);
        FakeBuildkitd::start(&sidecar.buildkitd, move |request: Request<Incoming>| {
            let probes = Arc::clone(&probes);
            async move {
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let solve = SolveRequest::decode(&body[5..]).unwrap();
                if solve.reference.starts_with("remora-probe") {
                    probes.fetch_add(1, Ordering::SeqCst);
                } else {
                    assert_eq!(solve.cache.unwrap().exports[0].attrs["endpoint_url"], "http://127.0.0.1:9190");
                }
                ok()
            }
        })
    };
    let build = || async { assert_eq!(sidecar.call(unary(SOLVE, &cached_build("ref"))).await.status().code(), Code::Ok) };
    let peer = start().await;
    tokio::join!(build(), build(), build());
    build().await;
    assert_eq!(probes.load(Ordering::SeqCst), 1);
    peer.kill().await;
    assert!(sidecar.control.check_buildkitd().await.is_err());
    let _peer = start().await;
    build().await;
    assert_eq!(probes.load(Ordering::SeqCst), 2);
}

/// Answers `GET /.remora/probe/<nonce>` as the s3 endpoint does, or with something else, and counts.
async fn probed(shutdown: &Shutdown, truthful: bool) -> (String, Arc<AtomicUsize>) {
    let listener = Listener::bind(&"tcp://127.0.0.1:0".parse().unwrap()).await.unwrap();
    let url = listener.address().to_string().replace("tcp://", "http://");
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    let serve = move |connection| {
        let asked = Arc::clone(&count);
        async move {
            let service = hyper::service::service_fn(move |request: Request<Incoming>| {
                let response = match request.uri().path().strip_prefix("/.remora/probe/") {
                    Some(nonce) => {
                        asked.fetch_add(1, Ordering::SeqCst);
                        Response::new(if truthful { nonce.to_owned() } else { "something else".to_owned() })
                    }
                    None => Response::builder().status(404).body(String::new()).unwrap(),
                };
                async move { Ok::<_, std::convert::Infallible>(response) }
            });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(hyper_util::rt::TokioIo::new(connection), service).await;
        }
    };
    shutdown.spawn(remora::endpoints::accept_loop(listener, shutdown.clone(), 10, serve));
    (url, asked)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_real_buildkitd_is_asked_and_nothing_is_left_behind() {
    // In memory: a disk that other tests keep busy can hold up the probe beyond its limit.
    let root = tempfile::tempdir_in("/dev/shm").unwrap();
    std::fs::write(root.path().join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
    let buildkitd = tokio::task::block_in_place(|| Buildkitd::start(root.path()));
    let shutdown = Shutdown::default();
    for (truthful, transport) in [(true, "relay"), (false, "session")] {
        let (url, asked) = probed(&shutdown, truthful).await;
        let address = buildkitd.address.clone();
        let sidecar = Sidecar::start(move |config| {
            config.buildkitd = address;
            config.transport = Transport::Auto;
            config.advertise = Some(url);
        })
        .await;
        assert_eq!(sidecar.control.check_buildkitd().await, Ok(()));
        let context = root.path().display();
        let (context, dockerfile) = (format!("context={context}"), format!("dockerfile={context}"));
        let cache = "type=s3,region=eu-west-1,bucket=build-cache,name=app";
        let args = ["build", "--frontend", "dockerfile.v0", "--local", &context, "--local", &dockerfile, "--import-cache", cache];
        tokio::task::block_in_place(|| buildctl(&sidecar.address, &args)).unwrap();
        let metrics = sidecar.metrics.encode();
        assert!(metrics.contains(&format!(r#"remora_builds_total{{transport="{transport}"}} 1"#)), "{metrics}");
        assert!(asked.load(Ordering::SeqCst) >= 1);
    }
    let histories = tokio::task::block_in_place(|| buildkitd.buildctl(&["debug", "histories"])).unwrap();
    // The two builds, below the heading, and no probe.
    assert_eq!(histories.trim_end().lines().count(), 3, "{histories}");
    assert!(!histories.contains("remora"), "{histories}");
    shutdown.stop();
}
