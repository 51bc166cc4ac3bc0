//! Who may do what, and how a request that may not is refused.

use super::*;

#[tokio::test]
async fn a_client_without_the_right_is_told_why() {
    let endpoint = Endpoint::start().await;
    let app = |client: Client| async move { client.get_object().bucket(BUCKET).key("manifests/app").send().await };
    let wrong = Client::from_conf(endpoint.config("OPERATOR", "guess").build());
    assert!(refusal(app(wrong).await).starts_with("SignatureDoesNotMatch"));
    assert!(refusal(app(endpoint.client("NOBODY")).await).starts_with("InvalidAccessKeyId: this access key id is not known"));

    let operator = endpoint.client("OPERATOR");
    let foreign = refusal(operator.get_object().bucket("other-bucket").key("manifests/app").send().await);
    assert_eq!(foreign, "AccessDenied: this access key is for bucket build-cache; the request is for bucket other-bucket");
    let team = endpoint.client("TEAM");
    assert!(refusal(app(team.clone()).await).contains("s3://build-cache/team/ alone"));
    endpoint.store.plant("team/x/manifests/app", manifest(&[]), OffsetDateTime::now_utc());
    team.get_object().bucket(BUCKET).key("team/x/manifests/app").send().await.unwrap();
    let below = endpoint.client("READER").get_object().bucket(BUCKET).key("team/x/manifests/app").send().await;
    assert!(refusal(below).starts_with("AccessDenied"));

    for (method, headers) in [
        ("GET", ""),
        ("GET", "Authorization: AWS OPERATOR:c2lnbmF0dXJl\r\n"),
        ("POST", "Content-Type: multipart/form-data; boundary=x\r\nContent-Length: 0\r\n"),
    ] {
        let request = format!("{method} /{BUCKET}/manifests/app HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{headers}\r\n");
        let answer = endpoint.send(&request).await;
        assert!(answer.starts_with("HTTP/1.1 403") || answer.contains("form uploads are not served"), "{answer}");
    }
}

#[tokio::test]
async fn a_builds_grant_reaches_as_far_as_the_build() {
    let endpoint = Endpoint::start().await;
    let layer = Bytes::from_static(b"layer");
    let (importer, import) = endpoint.build_client("importing", Purpose::Import);
    let (exporter, _export) = endpoint.build_client("exporting", Purpose::Export);
    let get = |client: &Client, key: &str| client.get_object().bucket(BUCKET).key(key).send();
    let put = |client: &Client, key: &str, body: Bytes| client.put_object().bucket(BUCKET).key(key).body(body.into()).send();

    put(&exporter, &blob_key(&layer), layer.clone()).await.unwrap();
    put(&exporter, "manifests/app", manifest(&[&layer])).await.unwrap();
    assert!(refusal(put(&exporter, "manifests/other", manifest(&[])).await).contains("not for manifest other"));
    assert!(refusal(get(&exporter, &blob_key(&layer)).await).contains("no Read right"));
    assert!(refusal(get(&exporter, "manifests/app").await).contains("no Read right"));
    exporter.head_object().bucket(BUCKET).key(blob_key(&layer)).send().await.unwrap();
    let usage = endpoint.keyring.usage("exporting").unwrap();
    assert_eq!((usage.blobs_written(), usage.blobs_reused(), usage.manifests_written()), (1, 1, 1));

    assert!(refusal(get(&importer, &blob_key(&layer)).await).contains("no manifest that was read under this grant names blob"));
    assert!(refusal(get(&importer, "manifests/other").await).contains("not for manifest other"));
    get(&importer, "manifests/app").await.unwrap();
    get(&importer, &blob_key(&layer)).await.unwrap();
    for key in [blob_key(b"new"), "manifests/app".to_owned()] {
        assert!(refusal(put(&importer, &key, Bytes::from_static(b"new")).await).contains("no Write right"));
        let begun = importer.create_multipart_upload().bucket(BUCKET).key(&key).send().await;
        assert!(refusal(begun).contains("no Write right"));
        let deleted = importer.delete_object().bucket(BUCKET).key(&key).send().await;
        assert!(refusal(deleted).contains("no Delete right"));
    }
    assert!(refusal(get(&importer, "x/manifests/app").await).starts_with("AccessDenied"));

    drop((import, _export));
    endpoint.returns_to_rest().await;
    let ended = refusal(get(&importer, "manifests/app").await);
    assert_eq!(ended, "ExpiredToken: this grant has ended with the build that it was made for");
}

#[tokio::test]
async fn a_refused_upload_is_answered_even_while_its_body_is_on_the_way() {
    let endpoint = Endpoint::start().await;
    let body = content(8 << 20, 4);
    let head = format!("PUT /{BUCKET}/manifests/app HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut stream = TcpStream::connect(&endpoint.address).await.unwrap();
    // Go's client does this: a failed write hides the answer.
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("must be signed"), "{answer}");
}

#[tokio::test]
async fn a_clock_that_is_wrong_is_named_in_the_refusal() {
    let endpoint = Endpoint::start().await;
    for (off, allowed) in [(-16 * 60_i64, false), (-14 * 60, true), (14 * 60, true), (16 * 60, false)] {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let clock = StaticTimeSource::from_secs(now.checked_add_signed(off).unwrap());
        let client = Client::from_conf(endpoint.config("OPERATOR", "secret of OPERATOR").time_source(clock).build());
        let listed = client.list_objects_v2().bucket(BUCKET).send().await;
        if allowed {
            listed.unwrap();
        } else {
            assert!(refusal(listed).starts_with("RequestTimeTooSkewed"), "{off}");
        }
    }
}

#[tokio::test]
async fn keys_and_buckets_that_lead_elsewhere_are_refused() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client("OPERATOR");
    let digest = Digest::of(b"x").to_string();
    let keys = [
        "blobs/sha256:../../etc/passwd".to_owned(),
        "manifests/../../etc/passwd".to_owned(),
        format!("blobs/{}", digest.to_uppercase()),
        format!("blobs/{digest}/.."),
        "labels/x".to_owned(),
        "anything".to_owned(),
    ];
    for key in &keys {
        let put = client.put_object().bucket(BUCKET).key(key).body(ByteStream::from_static(b"x")).send().await;
        let refused = refusal(put);
        assert!(refused.starts_with("InvalidRequest: invalid key"), "{key}: {refused}");
        assert!(refusal(client.get_object().bucket(BUCKET).key(key).send().await).starts_with("NoSuchKey"), "{key}");
        client.delete_object().bucket(BUCKET).key(key).send().await.unwrap();
    }
    assert!(endpoint.store.keys().is_empty());
    for bucket in ["..", "a..b", "UPPER"] {
        let request = format!("GET /{bucket}/manifests/app HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        let answer = endpoint.send(&request).await;
        assert!(answer.contains("<Code>InvalidBucketName</Code>"), "{bucket}: {answer}");
    }
}

#[tokio::test]
async fn the_bucket_may_be_in_the_host_name() {
    let endpoint = Endpoint::start().await;
    endpoint.store.plant("manifests/app", manifest(&[]), OffsetDateTime::now_utc());
    let config = endpoint.config("OPERATOR", "secret of OPERATOR").endpoint_url("http://cache.test:9190");
    let client = Client::from_conf(config.force_path_style(false).build());
    let presigning = PresigningConfig::expires_in(Duration::from_secs(60)).unwrap();
    let signed = client.get_object().bucket(BUCKET).key("manifests/app").presigned(presigning).await.unwrap();
    let uri: http::Uri = signed.uri().parse().unwrap();
    assert_eq!(uri.host(), Some("build-cache.cache.test"));
    let target = uri.path_and_query().unwrap();
    let answer = endpoint.send(&format!("GET {target} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", uri.authority().unwrap())).await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with(r#"{"layers":[]}"#), "{answer}");
}

#[tokio::test]
async fn the_probe_answers_anybody_with_the_nonce() {
    let endpoint = Endpoint::start().await;
    let get = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    let answer = endpoint.send(&get("/.remora/probe/a1B2-c3")).await.to_lowercase();
    assert!(answer.starts_with("http/1.1 200") && answer.ends_with("\r\n\r\na1b2-c3"), "{answer}");
    assert!(answer.contains("cache-control: no-store"), "{answer}");
    for path in ["/.remora/probe/", "/.remora/probe/a_b", "/.remora/probe/a/b", &format!("/.remora/probe/{}", "a".repeat(65))] {
        let answer = endpoint.send(&get(path)).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{path}: {answer}");
    }
}

/// buildkitd asks, and sends its body all the same: a connection that is closed under it is a broken pipe.
#[tokio::test]
async fn an_unwanted_body_is_read_even_when_its_client_asked_first() {
    let endpoint = Endpoint::start().await;
    let body = "x".repeat(5 << 20);
    let put = format!("PUT /{BUCKET}/blobs/x HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\nExpect: 100-continue\r\n\r\n{body}", body.len());
    let answers = endpoint.send(&format!("{put}GET /.remora/probe/behind HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await;
    assert!(answers.contains("HTTP/1.1 403") && answers.ends_with("behind"), "{answers}");
}
