//! What becomes of the cache options of builds.

use super::*;

#[tokio::test]
async fn a_build_gets_grants_in_place_of_its_credentials_and_they_end_with_it() {
    let (log, _guard) = Log::capture();
    let endpoint = Endpoint::start(|_| {}).await;
    let mut peer = Building::start(&endpoint.buildkitd).await;
    let sent = cached_build("the-ref");
    let mut client = endpoint.client().await;
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
    let export = &cache.exports[0].attrs;
    let import = &cache.imports[0].attrs;
    for attrs in [export, import] {
        let place = [("bucket", "build-cache"), ("region", "eu-west-1"), ("prefix", ""), ("endpoint_url", "http://127.0.0.1:9190")];
        for (key, value) in place.into_iter().chain([("use_path_style", "true"), ("mode", "max"), ("name", "app;main")]) {
            assert_eq!(attrs.get(key).map(String::as_str), Some(value), "{key} in {attrs:?}");
        }
        assert_eq!(attrs.len(), 9, "{attrs:?}");
    }
    let json: serde_json::Value = serde_json::from_str(&received.frontend_attrs["cache-imports"]).unwrap();
    assert_eq!(json[0]["Attrs"]["access_key_id"], import["access_key_id"]);

    // This is what the keys give access to.
    let app = "app".parse().unwrap();
    let main = "main".parse().unwrap();
    let reader = endpoint.keyring.lookup(&import["access_key_id"]).unwrap().grant;
    assert!(reader.check_manifest(Right::Read, &app).is_ok() && reader.check_manifest(Right::Read, &main).is_err());
    assert!(reader.check_manifest(Right::Write, &app).is_err());
    let writer = endpoint.keyring.lookup(&export["access_key_id"]).unwrap().grant;
    assert_eq!(writer.durability(), Durability::Local);
    assert!(writer.check_manifest(Right::Write, &main).is_ok() && writer.check_manifest(Right::Read, &main).is_err());

    // A gateway call of the build has the same import grant. A call that belongs to no build has none.
    for (id, wanted) in [("the-ref", 1), ("another", 0)] {
        let mut request = unary(GATEWAY_SOLVE, &GatewayRequest { imports: vec![s3_entry("app;main")] });
        request.headers_mut().extend(headers(&[("buildkit-controlapi-buildid", id)]));
        assert_eq!(Ended::of(client.send_request(request).await.unwrap()).await.unwrap().status().code(), Code::Ok);
        let forwarded: GatewayRequest = peer.next(GATEWAY_SOLVE).await;
        assert_eq!(forwarded.imports.len(), wanted);
        assert!(forwarded.imports.iter().all(|forwarded| forwarded.attrs == *import));
    }

    assert!(endpoint.metrics.encode().contains("remora_builds_running 1"));
    peer.end.notify_one();
    Ended::of(build.await.unwrap()).await.unwrap();
    until(|| endpoint.keyring.lookup(&import["access_key_id"]).is_err()).await;
    assert_eq!(endpoint.keyring.lookup(&export["access_key_id"]).unwrap_err(), Refused::Ended);
    let metrics = endpoint.metrics.encode();
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
    let endpoint = Endpoint::start(|_| {}).await;
    let mut peer = Building::start(&endpoint.buildkitd).await;
    let mut client = endpoint.client().await;
    tokio::select! {
        _ = client.send_request(unary(SOLVE, &cached_build("ref"))) => panic!("answered"),
        _ = peer.next::<SolveRequest>(SOLVE) => assert_eq!(endpoint.keyring.live_grants(), 2),
    }
    until(|| endpoint.keyring.live_grants() == 0).await;
}

#[tokio::test]
async fn a_build_without_s3_entries_is_forwarded_bit_by_bit() {
    let endpoint = Endpoint::start(|_| {}).await;
    let (_peer, mut received) = recording(&endpoint.buildkitd).await;
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
        assert_eq!(endpoint.call(request).await.status().code(), Code::Ok);
        let (head, body) = received.recv().await.unwrap();
        assert_eq!(body, sent);
        assert!(head.headers["grpc-encoding"] == encoding && !head.headers.contains_key("content-length"));
    }
    assert!(!endpoint.metrics.encode().contains("remora_builds_total{"));
}

#[tokio::test]
async fn a_compressed_build_is_patched_and_sent_plain() {
    let endpoint = Endpoint::start(|_| {}).await;
    let (_peer, mut received) = recording(&endpoint.buildkitd).await;
    let mut packed = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    packed.write_all(&cached_build("ref").encode_to_vec()).unwrap();
    let mut packed = message(&packed.finish().unwrap()).to_vec();
    packed[0] = 1;
    let mut request = call(SOLVE, whole([data(packed)]));
    request.headers_mut().extend(headers(&[("grpc-encoding", "gzip")]));
    assert_eq!(endpoint.call(request).await.status().code(), Code::Ok);
    let (_, body) = received.recv().await.unwrap();
    assert_eq!(body[0], 0);
    let forwarded = SolveRequest::decode(&body[5..]).unwrap();
    assert_eq!(forwarded.cache.unwrap().exports[0].attrs["endpoint_url"], "http://127.0.0.1:9190");
}

#[tokio::test]
async fn a_cache_that_is_not_served_fails_the_build_with_what_is_served() {
    let endpoint = Endpoint::start(|_| {}).await;
    let (_peer, mut received) = recording(&endpoint.buildkitd).await;
    for (attribute, value) in [("bucket", "other-bucket"), ("bucket", "../x"), ("region", "mars-1"), ("prefix", "../"), ("name", "a;..")] {
        let request = solve_request("ref", CacheOptions { exports: vec![], imports: vec![entry("s3", &[(attribute, value)])] });
        let ended = endpoint.call(unary(SOLVE, &request)).await;
        assert_eq!(ended.status().code(), Code::InvalidArgument);
        let status = ended.status();
        let text = status.message();
        assert!(text.contains(attribute) && text.contains("this remora serves bucket build-cache (region eu-west-1)"), "{text}");
    }
    assert!(received.try_recv().is_err());
}

#[tokio::test]
async fn damaged_and_oversized_messages_are_refused() {
    let endpoint = Endpoint::start(|config| config.max_message_bytes = 1000).await;
    let (_peer, mut received) = recording(&endpoint.buildkitd).await;
    for path in [SOLVE, GATEWAY_SOLVE] {
        for sent in [message(&[0x3a, 0x7f]), message(&[0x07]), Bytes::from_static(&[0, 0, 0, 0, 9, 1]), Bytes::new()] {
            let ended = endpoint.call(call(path, whole([data(sent)]))).await;
            assert_eq!(ended.status().code(), Code::InvalidArgument, "{}", ended.status().message());
        }
        let ended = endpoint.call(call(path, whole([data(message(&[0x3a, 0x7f]))]))).await;
        assert!(path != SOLVE || ended.status().message().contains(path), "{}", ended.status().message());
        // Refused by its declared length alone.
        let (frames, endless) = body();
        frames.send(Ok(data(message(&[0; 2000]).slice(..20)))).await.unwrap();
        let ended = endpoint.call(call(path, endless)).await;
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
