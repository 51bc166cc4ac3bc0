//! Which way a cache goes, and how that is found out.

use super::*;

#[tokio::test]
async fn a_builder_without_a_way_to_the_s3_endpoint_is_served_through_its_session() {
    let url = || Some("http://127.0.0.1:9190".to_owned());
    for (transport, advertise, advice) in [
        (Transport::Relay, None, Some("set --s3")),
        (Transport::Session, url(), None),
        (Transport::Auto, url(), Some("set --s3 and --s3-advertise")),
    ] {
        let (log, _guard) = Log::capture();
        let endpoint = Endpoint::start(|config| (config.transport, config.advertise) = (transport, advertise)).await;
        let (sender, mut received) = mpsc::unbounded_channel();
        let _peer = FakeBuildkitd::start(&endpoint.buildkitd, move |request: Request<Incoming>| {
            let sender = sender.clone();
            async move {
                if request.uri().path() == SESSION {
                    return silent_session();
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
        let _session = endpoint.session("the-session").await;
        let build = SolveRequest { session: "the-session".to_owned(), ..cached_build("the-ref") };
        assert_eq!(endpoint.call(unary(SOLVE, &build)).await.status().code(), Code::Ok);
        let forwarded = SolveRequest::decode(&received.recv().await.unwrap()[5..]).unwrap();
        let cache = forwarded.cache.unwrap();
        let [export] = &cache.exports[..] else { panic!("{cache:?}") };
        assert_eq!(export.kind, "local");
        assert!(export.attrs["dest"].starts_with("remora-RMRA"), "{export:?}");
        let of_s3 = ["bucket", "region", "name", "access_key_id", "secret_access_key", "session_token", "endpoint_url", "durability"];
        assert!(of_s3.iter().all(|attr| !export.attrs.contains_key(*attr)), "{export:?}");
        // There is no such manifest, so there is nothing to import.
        assert_eq!(cache.imports, vec![entry("inline", &[])]);
        assert_eq!(forwarded.frontend_attrs["cache-imports"], "[]");
        assert_eq!(&forwarded.unknown[..], b"new");
        let warnings = log.lines("WARN");
        assert_eq!(warnings.len(), usize::from(advice.is_some()), "{warnings:?}");
        assert!(warnings.iter().all(|line| line.contains(advice.unwrap()) && line.contains("the-ref")), "{warnings:?}");
        until(|| log.lines("build the-ref: imported").len() == 1).await;
        assert!(endpoint.metrics.encode().contains(r#"remora_builds_total{transport="session"} 1"#));
    }
}

#[tokio::test]
async fn buildkitd_is_asked_once_until_it_restarts() {
    let endpoint = Endpoint::start(|config| config.transport = Transport::Auto).await;
    let probes = Arc::new(AtomicUsize::new(0));
    let start = || {
        let probes = Arc::clone(&probes);
        FakeBuildkitd::start(&endpoint.buildkitd, move |request: Request<Incoming>| {
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
    let build = || async { assert_eq!(endpoint.call(unary(SOLVE, &cached_build("ref"))).await.status().code(), Code::Ok) };
    let peer = start().await;
    tokio::join!(build(), build(), build());
    build().await;
    assert_eq!(probes.load(Ordering::SeqCst), 1);
    peer.kill().await;
    assert!(endpoint.control.check_buildkitd().await.is_err());
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
    let serve = move |connection, _| {
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
    // The files are in memory: a disk that other tests keep busy can hold up the probe beyond its limit.
    let root = tempfile::tempdir_in("/dev/shm").unwrap();
    std::fs::write(root.path().join("Dockerfile"), "FROM scratch\nCOPY Dockerfile /\n").unwrap();
    let buildkitd = tokio::task::block_in_place(|| Buildkitd::start_below(root.path()));
    let shutdown = Shutdown::default();
    for (truthful, transport) in [(true, "relay"), (false, "session")] {
        let (url, asked) = probed(&shutdown, truthful).await;
        let address = buildkitd.address().parse().unwrap();
        let endpoint = Endpoint::start(move |config| {
            config.buildkitd = address;
            config.transport = Transport::Auto;
            config.advertise = Some(url);
        })
        .await;
        assert_eq!(endpoint.control.check_buildkitd().await, Ok(()));
        let context = root.path().display();
        let (context, dockerfile) = (format!("context={context}"), format!("dockerfile={context}"));
        let cache = "type=s3,region=eu-west-1,bucket=build-cache,name=app";
        let args = ["build", "--frontend", "dockerfile.v0", "--local", &context, "--local", &dockerfile, "--import-cache", cache];
        tokio::task::block_in_place(|| buildctl(&endpoint.address.to_string(), &args)).expect_success();
        let metrics = endpoint.metrics.encode();
        assert!(metrics.contains(&format!(r#"remora_builds_total{{transport="{transport}"}} 1"#)), "{metrics}");
        assert!(asked.load(Ordering::SeqCst) >= 1);
    }
    let histories = tokio::task::block_in_place(|| buildkitd.buildctl(&["debug", "histories"])).expect_success();
    // The list has the two builds below its heading, and no probe.
    assert_eq!(histories.trim_end().lines().count(), 3, "{histories}");
    assert!(!histories.contains("remora"), "{histories}");
    shutdown.stop();
}
