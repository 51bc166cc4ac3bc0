//! Calls pass through unchanged, in both directions.

use super::*;

#[tokio::test]
async fn headers_messages_and_trailers_pass_unchanged() {
    let endpoint = Endpoint::start(|_| {}).await;
    let (sender, mut received) = mpsc::unbounded_channel();
    let _peer = FakeBuildkitd::start(&endpoint.buildkitd, move |request: Request<Incoming>| {
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
    let ended = endpoint.call(request).await;

    let (head, body) = received.recv().await.unwrap();
    assert_eq!((head.uri.path(), head.uri.authority().unwrap().as_str(), &body[..]), (ANY, "localhost", &b"not even gRPC"[..]));
    assert_eq!(head.headers, sent);
    assert_eq!(ended.headers, headers(&[("content-type", "application/grpc"), ("leading", "metadata")]));
    assert_eq!(&ended.body[..], b"onetwo");
    assert_eq!(ended.trailers.unwrap(), headers(&[("grpc-status", "5"), ("grpc-status-details-bin", &"x".repeat(100_000))]));
}

#[tokio::test]
async fn a_response_of_headers_alone_stays_one_and_may_come_early() {
    let endpoint = Endpoint::start(|_| {}).await;
    let _peer = FakeBuildkitd::start(&endpoint.buildkitd, |_| async {
        let mut response = Response::new(whole([]));
        *response.headers_mut() =
            headers(&[("content-type", "application/grpc"), ("grpc-status", "12"), ("grpc-message", "no such method")]);
        response
    })
    .await;
    let (_never_ends, request) = body();
    let response = endpoint.client().await.send_request(call(ANY, request)).await.unwrap();
    assert_eq!(response.headers()["grpc-status"], "12");
    let ended = Ended::of(response).await.unwrap();
    assert_eq!((ended.status().message(), ended.trailers.as_ref(), ended.body.len()), ("no such method", None, 0));
}

#[tokio::test]
async fn both_sides_stream_and_half_close() {
    let endpoint = Endpoint::start(|_| {}).await;
    let _peer = FakeBuildkitd::start(&endpoint.buildkitd, |request: Request<Incoming>| async {
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
    let mut response = endpoint.client().await.send_request(call(SESSION, request)).await.unwrap().into_body();
    for text in ["one", "two"] {
        frames.send(Ok(data(text))).await.unwrap();
        assert_eq!(response.frame().await.unwrap().unwrap().into_data().unwrap(), text);
    }
    drop(frames);
    assert_eq!(response.frame().await.unwrap().unwrap().into_data().unwrap(), "after the half-close");
    assert_eq!(response.frame().await.unwrap().unwrap().into_trailers().unwrap()["grpc-status"], "0");
}

/// Notifies when it is dropped.
struct OnDrop(Arc<Notify>);

impl Drop for OnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

#[tokio::test]
async fn cancellation_reaches_buildkitd_before_and_after_the_response_began() {
    let endpoint = Endpoint::start(|_| {}).await;
    let (arrived, gone) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (tell_arrived, tell_gone) = (Arc::clone(&arrived), Arc::clone(&gone));
    let _peer = FakeBuildkitd::start(&endpoint.buildkitd, move |request: Request<Incoming>| {
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
    let mut client = endpoint.client().await;
    // This is a unary call that has no answer yet.
    tokio::select! {
        _ = client.send_request(unary(SOLVE, &solve_request("ref", CacheOptions::default()))) => panic!("answered"),
        () = arrived.notified() => {}
    }
    gone.notified().await;
    // This is a stream in both directions.
    let (_frames, request) = body();
    let mut response = client.send_request(call(SESSION, request)).await.unwrap().into_body();
    response.frame().await.unwrap().unwrap();
    drop(response);
    drop(_frames);
    gone.notified().await;
}

#[tokio::test]
async fn a_reset_by_buildkitd_is_passed_on() {
    let endpoint = Endpoint::start(|_| {}).await;
    let _peer = FakeBuildkitd::start(&endpoint.buildkitd, |_| async {
        // hyper resets the stream of a body that fails, for its reason.
        let (frames, response) = body();
        frames.send(Ok(data("begun"))).await.unwrap();
        frames.send(Err(h2::Reason::ENHANCE_YOUR_CALM.into())).await.unwrap();
        grpc(response)
    })
    .await;
    let error = match endpoint.client().await.send_request(call(ANY, whole([]))).await {
        Ok(response) => Ended::of(response).await.unwrap_err(),
        Err(error) => error,
    };
    let reason = std::error::Error::source(&error).and_then(|cause| cause.downcast_ref::<h2::Error>()).and_then(h2::Error::reason);
    assert_eq!(reason, Some(h2::Reason::ENHANCE_YOUR_CALM), "{error:?}");
}

#[tokio::test]
async fn a_message_of_32_mib_passes_both_ways() {
    let endpoint = Endpoint::start(|_| {}).await;
    let _peer = FakeBuildkitd::start(&endpoint.buildkitd, |request: Request<Incoming>| async {
        let body = request.into_body().collect().await.unwrap().to_bytes();
        grpc(whole([data(body), trailers(&[("grpc-status", "0")])]))
    })
    .await;
    let large = message(&vec![7; 32 << 20]);
    let request = solve_request("ref", CacheOptions { exports: vec![entry("inline", &[("x", &"y".repeat(32 << 20))])], imports: vec![] });
    for request in [call(ANY, whole([data(large)])), unary(SOLVE, &request)] {
        let (head, sent) = request.into_parts();
        let sent = sent.collect().await.unwrap().to_bytes();
        let ended = endpoint.call(Request::from_parts(head, whole([data(sent.clone())]))).await;
        assert!(ended.body == sent && ended.status().code() == Code::Ok, "{} of {} bytes", ended.body.len(), sent.len());
    }
}

#[tokio::test]
async fn sixty_four_streams_run_at_once_on_one_connection() {
    let endpoint = Endpoint::start(|_| {}).await;
    let all_here = Arc::new(tokio::sync::Barrier::new(64));
    let _peer = FakeBuildkitd::start(&endpoint.buildkitd, move |request: Request<Incoming>| {
        let all_here = Arc::clone(&all_here);
        async move {
            all_here.wait().await;
            let body = request.into_body().collect().await.unwrap().to_bytes();
            grpc(whole([data(body), trailers(&[("grpc-status", "0")])]))
        }
    })
    .await;
    let client = endpoint.client().await;
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

#[tokio::test]
async fn one_call_too_many_on_a_connection_waits_for_another_to_end() {
    let endpoint = Endpoint::start(|config| config.max_streams = 2).await;
    let mut building = Building::start(&endpoint.buildkitd).await;
    let client = endpoint.client().await;
    let make = |request: Request<Body>| {
        let mut client = client.clone();
        async move { Ended::of(client.send_request(request).await.unwrap()).await.unwrap() }
    };
    // The client knows the bound from the answer to its first call on.
    make(unary(ANY, &SolveRequest::default())).await;
    let _: SolveRequest = building.next(ANY).await;
    let builds =
        futures_util::future::join_all(["one", "two"].map(|build| make(unary(SOLVE, &solve_request(build, CacheOptions::default())))));
    let one_more = async {
        for _ in 0..2 {
            let _: SolveRequest = building.next(SOLVE).await;
        }
        let mut one_more = std::pin::pin!(make(unary(ANY, &SolveRequest::default())));
        let early = tokio::time::timeout(Duration::from_millis(200), one_more.as_mut()).await;
        assert!(early.is_err(), "it is answered");
        building.end.notify_one();
        assert_eq!(one_more.await.status().code(), Code::Ok);
        building.end.notify_one();
    };
    tokio::join!(builds, one_more);
}
