//! buildkitd comes, goes and comes back; remora drains.

use super::*;

#[tokio::test]
async fn a_call_waits_for_buildkitd_to_be_there() {
    let endpoint = Endpoint::start(|_| {}).await;
    let mut client = endpoint.client().await;
    let mut waiting = std::pin::pin!(client.send_request(unary(SOLVE, &solve_request("ref", CacheOptions::default()))));
    tokio::select! {
        early = &mut waiting => panic!("{early:?}"),
        () = tokio::time::sleep(Duration::from_millis(200)) => {}
    }
    assert!(endpoint.control.check_buildkitd().await.unwrap_err().contains("buildkitd.sock"));
    let _peer = recording(&endpoint.buildkitd).await;
    assert_eq!(Ended::of(waiting.await.unwrap()).await.unwrap().status().code(), Code::Ok);
    assert_eq!(endpoint.control.check_buildkitd().await, Ok(()));
}

#[tokio::test]
async fn an_absent_buildkitd_is_unavailable_by_name() {
    let endpoint = Endpoint::start(|config| config.connect_timeout = Duration::from_millis(50)).await;
    for path in [ANY, SOLVE] {
        let ended = endpoint.call(call(path, whole([data(message(b""))]))).await;
        assert_eq!(ended.status().code(), Code::Unavailable);
        assert!(ended.status().message().contains(&format!("buildkitd at {}", endpoint.buildkitd)), "{}", ended.status().message());
    }
    assert!(endpoint.metrics.encode().contains(r#"operation="Control/Solve",class="failed"} 1"#), "{}", endpoint.metrics.encode());
}

#[tokio::test]
async fn a_buildkitd_that_dies_ends_its_calls_and_the_next_one_finds_its_successor() {
    let endpoint = Endpoint::start(|_| {}).await;
    let begun = |_| async {
        let (frames, response) = body();
        frames.send(Ok(data("begun"))).await.unwrap();
        let shutdown = Shutdown::default();
        shutdown.spawn(async move { frames.closed().await });
        grpc(response)
    };
    let first = FakeBuildkitd::start(&endpoint.buildkitd, begun).await;
    let mut client = endpoint.client().await;
    let mut streaming = client.send_request(call(ANY, whole([]))).await.unwrap().into_body();
    streaming.frame().await.unwrap().unwrap();
    first.kill().await;
    let end = streaming.frame().await.unwrap().unwrap().into_trailers().unwrap();
    assert_eq!(end["grpc-status"], "14");
    assert!(end["grpc-message"].to_str().unwrap().contains(&endpoint.buildkitd.to_string()), "{end:?}");
    // The client does not wait for the new buildkitd: it may still have something to send before its call ends.
    let lost = tokio::time::timeout(Duration::from_secs(10), client.send_request(call(ANY, whole([])))).await;
    assert_eq!(Ended::of(lost.expect("at once").unwrap()).await.unwrap().status().code(), Code::Unavailable);
    let _second = recording(&endpoint.buildkitd).await;
    let ended = Ended::of(client.send_request(call(ANY, whole([]))).await.unwrap()).await.unwrap();
    assert_eq!(ended.status().code(), Code::Ok);
}

#[tokio::test]
async fn a_drain_serves_the_builds_that_run_and_takes_no_new_ones() {
    let endpoint = Endpoint::start(|_| {}).await;
    let mut peer = Building::start(&endpoint.buildkitd).await;
    assert_eq!(endpoint.control.check_buildkitd().await, Ok(()));
    peer.next::<GatewayRequest>("/moby.buildkit.v1.Control/Info").await;
    let idle = endpoint.client().await;
    let mut client = endpoint.client().await;
    let request = SolveRequest { session: "its-session".to_owned(), ..cached_build("ref") };
    let build = client.clone().send_request(unary(SOLVE, &request));
    let mut build = std::pin::pin!(build);
    tokio::select! {
        _ = &mut build => panic!("answered"),
        _ = peer.next::<SolveRequest>(SOLVE) => {}
    }
    let finished = {
        let shutdown = endpoint.shutdown.clone();
        async move { shutdown.finish(Duration::from_secs(30)).await }
    };
    let calls = async {
        until(|| endpoint.shutdown.is_draining()).await;
        // A build in flight may go on making calls, on new connections too; its session may come late.
        assert_eq!(Ended::of(client.send_request(call(ANY, whole([]))).await.unwrap()).await.unwrap().status().code(), Code::Ok);
        assert_eq!(endpoint.call(call(ANY, whole([]))).await.status().code(), Code::Ok);
        let session = endpoint.session("its-session").await;
        for new in [unary(SOLVE, &cached_build("new")), call(SESSION, whole([]))] {
            let refused = endpoint.call(new).await.status();
            assert_eq!(refused.code(), Code::Unavailable);
            assert!(refused.message().contains("shutting down"), "{refused}");
        }
        assert!(!endpoint.shutdown.is_closing());
        drop(session);
        peer.end.notify_one();
        assert_eq!(Ended::of(build.await.unwrap()).await.unwrap().status().code(), Code::Ok);
        let Address::Unix(path) = &endpoint.address else { panic!() };
        until(|| std::os::unix::net::UnixStream::connect(path).is_err()).await;
        until(|| idle.is_closed() && client.is_closed()).await;
    };
    let (finished, ()) = tokio::join!(finished, calls);
    assert!(finished, "{} tasks are left", endpoint.shutdown.tasks());
}

#[tokio::test]
async fn a_build_that_is_cut_off_is_told_why() {
    let endpoint = Endpoint::start(|_| {}).await;
    let mut peer = Building::start(&endpoint.buildkitd).await;
    let mut client = endpoint.client().await;
    let build = client.send_request(unary(SOLVE, &cached_build("ref")));
    let cut = async {
        peer.next::<SolveRequest>(SOLVE).await;
        assert!(!endpoint.shutdown.finish(Duration::from_millis(50)).await);
    };
    let (ended, ()) = tokio::join!(async { Ended::of(build.await.unwrap()).await.unwrap() }, cut);
    assert_eq!(ended.status().code(), Code::Unavailable);
    assert!(ended.status().message().contains("drain_deadline"), "{}", ended.status().message());
}
