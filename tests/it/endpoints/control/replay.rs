//! Builds that lost layers of their cache, and what is kept of a build to run it again.

use std::collections::BTreeSet;

use remora::types::Promises;
use tokio::sync::watch;

use super::*;

const RETURN: &str = "/moby.buildkit.v1.frontend.LLBBridge/Return";
const NEW_CONTAINER: &str = "/moby.buildkit.v1.frontend.LLBBridge/NewContainer";
const STATUS: &str = "/moby.buildkit.v1.Control/Status";
const REF: &str = "the-ref";
const AGAIN: &str = "the-ref-again";

/// Results in the answer to a gateway `Solve` and in a `Return`.
#[derive(Clone, PartialEq, prost::Message)]
struct Results {
    #[prost(message, optional, tag = "4")]
    refs: Option<Refs>,
    #[prost(map = "string, bytes", tag = "10")]
    metadata: HashMap<String, Bytes>,
    #[prost(map = "string, message", tag = "12")]
    attestations: HashMap<String, Attestations>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Refs {
    #[prost(map = "string, message", tag = "1")]
    refs: HashMap<String, Ref>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Ref {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(bytes = "bytes", tag = "2")]
    definition: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Attestations {
    #[prost(message, repeated, tag = "1")]
    attestation: Vec<Attestation>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Attestation {
    #[prost(message, optional, tag = "3")]
    reference: Option<Ref>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct GatewayAnswer {
    #[prost(message, optional, tag = "3")]
    result: Option<Results>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Returned {
    #[prost(message, optional, tag = "1")]
    result: Option<Results>,
    #[prost(bytes = "bytes", tag = "2")]
    error: Bytes,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Exporting {
    #[prost(message, repeated, tag = "13")]
    exporters: Vec<Entry>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Progress {
    #[prost(message, repeated, tag = "1")]
    vertexes: Vec<Vertex>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct Vertex {
    #[prost(string, tag = "3")]
    name: String,
}

/// What a gateway `Solve` of a build (`A`: the first run, `B`: the second) is answered.
fn results(run: char) -> Results {
    let id = |kind: char| Ref { id: [run, kind].repeat(12).into_iter().collect(), definition: "definition".into() };
    let refs = [("linux/amd64", 'x'), ("linux/arm64", 'y')].map(|(platform, kind)| (platform.to_owned(), id(kind)));
    let attestation = Attestations { attestation: vec![Attestation::default(), Attestation { reference: Some(id('z')) }] };
    Results {
        refs: Some(Refs { refs: refs.into() }),
        metadata: [("config".to_owned(), "first".into())].into(),
        attestations: [("linux/amd64".to_owned(), attestation)].into(),
    }
}

/// A buildkitd whose builds end when their results are returned: the first fails, its second run passes.
struct Peer {
    _buildkitd: FakeBuildkitd,
    received: mpsc::UnboundedReceiver<(String, String, Bytes)>,
}

impl Peer {
    async fn start(address: &Address) -> Self {
        let (sender, received) = mpsc::unbounded_channel();
        let returned = Arc::new(watch::Sender::new(BTreeSet::<String>::new()));
        let buildkitd = FakeBuildkitd::start(address, move |request: Request<Incoming>| {
            let sender = sender.clone();
            let returned = Arc::clone(&returned);
            async move {
                let path = request.uri().path().to_owned();
                let build = request.headers().get("buildkit-controlapi-buildid").map(|id| id.to_str().unwrap().to_owned());
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let named = || SolveRequest::decode(&body[5..]).unwrap().reference;
                let build = build.unwrap_or_else(named);
                sender.send((path.clone(), build.clone(), body.slice(5..))).unwrap();
                match path.as_str() {
                    SOLVE => {
                        returned.subscribe().wait_for(|returned| returned.contains(&build)).await.unwrap();
                        if build == AGAIN { ok() } else { grpc(whole([trailers(&[("grpc-status", "2"), ("grpc-message", "lost")])])) }
                    }
                    GATEWAY_SOLVE => {
                        let answer = GatewayAnswer { result: Some(results(if build == AGAIN { 'B' } else { 'A' })) };
                        grpc(whole([data(message(&answer.encode_to_vec())), trailers(&[("grpc-status", "0")])]))
                    }
                    RETURN => {
                        returned.send_modify(|returned| _ = returned.insert(build));
                        ok()
                    }
                    STATUS => {
                        let progress = Progress { vertexes: vec![Vertex { name: format!("of {build}") }] };
                        grpc(whole([data(message(&progress.encode_to_vec())), trailers(&[("grpc-status", "0")])]))
                    }
                    _ => ok(),
                }
            }
        })
        .await;
        Self { _buildkitd: buildkitd, received }
    }

    /// Takes the next call, which must be this one of this build.
    async fn next<M: prost::Message + Default>(&mut self, path: &str, build: &str) -> M {
        let (got, of, body) = self.received.recv().await.unwrap();
        assert_eq!((got.as_str(), of.as_str()), (path, build));
        M::decode(body).unwrap()
    }
}

/// A client of one build.
struct Building {
    endpoint: Endpoint,
    peer: Peer,
    client: SendRequest<Body>,
    build: tokio::task::JoinHandle<Ended>,
    promises: Arc<Promises>,
}

impl Building {
    /// Begins a build: `cached_build` with these outputs.
    async fn start(outputs: &[&str]) -> Self {
        let endpoint = Endpoint::start(|_| {}).await;
        let mut peer = Peer::start(&endpoint.buildkitd).await;
        let client = endpoint.client().await;
        let outputs = Exporting { exporters: outputs.iter().map(|kind| entry(kind, &[])).collect() };
        let request = SolveRequest { unknown: Bytes::new(), ..cached_build(REF) };
        let sent = [request.encode_to_vec(), outputs.encode_to_vec()].concat();
        let mut solving = client.clone();
        #[expect(clippy::disallowed_methods, reason = "a client of its own")]
        let build = tokio::spawn(async move {
            let request = call(SOLVE, whole([data(message(&sent))]));
            Ended::of(solving.send_request(request).await.unwrap()).await.unwrap()
        });
        let begun: SolveRequest = peer.next(SOLVE, REF).await;
        assert_eq!(begun.cache.unwrap().imports.len(), 2);
        let promises = endpoint.keyring.promises(REF).unwrap();
        Self { endpoint, peer, client, build, promises }
    }

    async fn gateway(&mut self, path: &str, request: &impl prost::Message) -> Ended {
        let mut request = unary(path, request);
        request.headers_mut().extend(headers(&[("buildkit-controlapi-buildid", REF)]));
        Ended::of(self.client.send_request(request).await.unwrap()).await.unwrap()
    }

    /// As clients do: one `Solve`, and its answer returned.
    async fn solve_and_return(&mut self, padding: usize) {
        let import = Entry { kind: "s3".to_owned(), attrs: HashMap::from([("name".to_owned(), "app".to_owned())]) };
        let others = Entry { kind: "registry".to_owned(), attrs: HashMap::from([("ref".to_owned(), "x".repeat(padding))]) };
        let answer = self.gateway(GATEWAY_SOLVE, &GatewayRequest { imports: vec![import, others] }).await;
        let answer = GatewayAnswer::decode(&answer.body[5..]).unwrap();
        let returned = Returned { result: answer.result, error: Bytes::new() };
        assert_eq!(self.gateway(RETURN, &returned).await.status().code(), Code::Ok);
    }

    fn lose_a_layer(&self) {
        self.promises.break_one();
    }

    fn would_be_replayed(&self) -> bool {
        self.promises.is_replayable()
    }

    /// The end of a build that failed and was not run again.
    async fn fails_once(self) {
        let ended = self.build.await.unwrap();
        assert_eq!((ended.status().code(), ended.status().message()), (Code::Unknown, "lost"));
        assert!(self.endpoint.metrics.encode().contains("remora_builds_replayed_total 0"));
    }
}

#[tokio::test]
async fn a_build_that_lost_a_promised_layer_is_run_again_without_its_imports() {
    let mut building = Building::start(&["oci"]).await;
    let status = unary(STATUS, &solve_request(REF, CacheOptions::default()));
    let status = building.client.send_request(status).await.unwrap();
    let _: SolveRequest = building.peer.next(STATUS, REF).await;
    assert!(building.would_be_replayed());
    building.lose_a_layer();
    building.solve_and_return(0).await;
    let cached: GatewayRequest = building.peer.next(GATEWAY_SOLVE, REF).await;
    assert_eq!(cached.imports.len(), 2);
    let _: Returned = building.peer.next(RETURN, REF).await;

    let ended = building.build.await.unwrap();
    assert_eq!(ended.status().code(), Code::Ok);
    let peer = &mut building.peer;
    let mut seen = Vec::new();
    while seen.len() < 4 {
        let (path, build, body) = peer.received.recv().await.unwrap();
        assert_eq!(build, AGAIN);
        match path.as_str() {
            SOLVE => {
                let again = SolveRequest::decode(body).unwrap();
                let cache = again.cache.unwrap();
                assert_eq!(cache.imports, [entry("inline", &[])]);
                assert!(cache.exports[0].attrs["access_key_id"].starts_with("RMRA"));
                assert_eq!(again.frontend_attrs["cache-imports"], "[]");
            }
            GATEWAY_SOLVE => {
                let again = GatewayRequest::decode(body).unwrap();
                assert_eq!(again.imports.iter().map(|import| import.kind.as_str()).collect::<Vec<_>>(), ["registry"]);
            }
            // The second run returns its own results, with what the client made of the first ones.
            RETURN => assert_eq!(Returned::decode(body).unwrap().result.unwrap(), results('B')),
            other => assert_eq!(other, STATUS),
        }
        seen.push(path);
    }
    let asked: BTreeSet<&str> = seen.iter().map(String::as_str).collect();
    assert_eq!(asked, [SOLVE, GATEWAY_SOLVE, RETURN, STATUS].into());

    // The client sees one stream of progress, with a message between the two runs.
    let progress = Ended::of(status).await.unwrap();
    assert_eq!(progress.status().code(), Code::Ok);
    let mut rest = &progress.body[..];
    let mut names = Vec::new();
    while let Some((prefix, behind)) = rest.split_first_chunk::<5>() {
        let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
        names.extend(Progress::decode(&behind[..length]).unwrap().vertexes.into_iter().map(|vertex| vertex.name));
        rest = &behind[length..];
    }
    assert_eq!((names.len(), &names[0][..], &names[2][..]), (3, "of the-ref", "of the-ref-again"));
    assert!(names[1].contains("building again without"), "{names:?}");
    let metrics = building.endpoint.metrics.encode();
    assert!(metrics.contains("remora_builds_replayed_total 1") && metrics.contains("remora_builds_running 0"), "{metrics}");
}

#[tokio::test]
async fn a_build_that_lost_nothing_fails_as_it_did() {
    let mut building = Building::start(&["oci"]).await;
    building.solve_and_return(0).await;
    building.fails_once().await;
}

#[tokio::test]
async fn more_than_4_mib_are_not_kept() {
    let mut building = Building::start(&[]).await;
    building.lose_a_layer();
    building.solve_and_return(3 << 20).await;
    assert_eq!(building.build.await.unwrap().status().code(), Code::Ok);
    let mut another = Building::start(&[]).await;
    let request = GatewayRequest { imports: vec![entry("registry", &[("ref", &"x".repeat(5 << 20))])] };
    another.gateway(GATEWAY_SOLVE, &request).await;
    assert!(!another.would_be_replayed());
    another.lose_a_layer();
    another.solve_and_return(0).await;
    another.fails_once().await;
}

#[tokio::test]
async fn calls_that_a_client_makes_beside_its_build_are_not_repeated() {
    for path in [NEW_CONTAINER, RETURN] {
        let mut building = Building::start(&[]).await;
        building.lose_a_layer();
        // A client that returns an error has had it from buildkitd, and given up.
        building.gateway(path, &Returned { result: None, error: "failed".into() }).await;
        assert!(!building.would_be_replayed());
        if path == NEW_CONTAINER {
            building.solve_and_return(0).await;
        }
        building.fails_once().await;
    }
}

#[tokio::test]
async fn nothing_is_exported_twice() {
    for (outputs, replayed) in
        [(&["image", "image"][..], true), (&["local"], true), (&[], true), (&["local", "image"], false), (&["oci", "local"], false)]
    {
        assert_eq!(Building::start(outputs).await.would_be_replayed(), replayed, "{outputs:?}");
    }
    // Once the cache is exported, the files are at the client.
    for (output, code) in [("local", Code::Unknown), ("image", Code::Ok)] {
        let mut building = Building::start(&[output]).await;
        building.lose_a_layer();
        building.promises.begin_export();
        building.solve_and_return(0).await;
        assert_eq!(building.build.await.unwrap().status().code(), code, "{output}");
    }
}

#[tokio::test]
async fn builds_without_an_import_and_cancelled_ones_leave_nothing() {
    let endpoint = Endpoint::start(|_| {}).await;
    let mut peer = Peer::start(&endpoint.buildkitd).await;
    let mut client = endpoint.client().await;
    let cache = CacheOptions { exports: vec![s3_entry("app")], imports: vec![] };
    let request = SolveRequest { unknown: Bytes::new(), ..solve_request(REF, cache) };
    tokio::select! {
        _ = client.send_request(unary(SOLVE, &request)) => panic!("answered"),
        _ = peer.next::<SolveRequest>(SOLVE, REF) => assert!(!endpoint.keyring.promises(REF).unwrap().is_replayable()),
    }
    until(|| endpoint.metrics.encode().contains("remora_builds_running 0")).await;

    // The second run is cancelled with its client, too.
    let mut building = Building::start(&[]).await;
    building.lose_a_layer();
    building.build.abort();
    until(|| building.endpoint.metrics.encode().contains("remora_builds_running 0")).await;
    assert!(building.endpoint.keyring.promises(REF).is_none());
    let answered = building.gateway(RETURN, &Returned { result: Some(results('A')), error: Bytes::new() }).await;
    assert_eq!(answered.status().code(), Code::Ok);
    assert!(building.endpoint.metrics.encode().contains("remora_builds_replayed_total 0"));
}
