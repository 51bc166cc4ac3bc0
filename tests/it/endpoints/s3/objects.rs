//! Blobs and manifests as they are put, looked up, read, listed and deleted.

use aws_sdk_s3::config::interceptors::BeforeTransmitInterceptorContextMut;
use aws_sdk_s3::config::{ConfigBag, Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::primitives::SdkBody;

use super::*;

#[tokio::test]
async fn blobs_are_put_looked_up_read_in_ranges_touched_and_deleted() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client("OPERATOR");
    let blob = content(3_000_000, 1);
    let key = blob_key(&blob);

    assert_eq!(refusal(client.head_object().bucket(BUCKET).key(&key).send().await), "NotFound: ");
    assert!(refusal(client.get_object().bucket(BUCKET).key(&key).send().await).starts_with("NoSuchKey: not found"));
    let put = client.put_object().bucket(BUCKET).key(&key).body(ByteStream::from(blob.clone())).send().await.unwrap();
    assert_eq!(endpoint.store.bytes(&key).unwrap(), blob);

    let head = client.head_object().bucket(BUCKET).key(&key).send().await.unwrap();
    assert_eq!(head.content_length(), Some(3_000_000));
    assert_eq!(head.e_tag(), put.e_tag());
    assert!(head.last_modified().is_some());

    for (range, start, end) in [
        (None, 0, 3_000_000),
        (Some("bytes=0-"), 0, 3_000_000),
        (Some("bytes=2999999-"), 2_999_999, 3_000_000),
        (Some("bytes=10-19"), 10, 20),
    ]
    .into_iter()
    .chain([(Some("bytes=-7"), 2_999_993, 3_000_000), (Some("bytes=2999990-9999999"), 2_999_990, 3_000_000)])
    {
        let got = client.get_object().bucket(BUCKET).key(&key).set_range(range.map(str::to_owned)).send().await.unwrap();
        let wanted = range.map(|_| format!("bytes {start}-{}/3000000", end - 1));
        assert_eq!(got.content_range(), wanted.as_deref(), "{range:?}");
        assert_eq!(got.content_length(), Some((end - start) as i64), "{range:?}");
        assert_eq!(got.body.collect().await.unwrap().into_bytes(), blob.slice(start..end), "{range:?}");
    }
    let behind = client.get_object().bucket(BUCKET).key(&key).range("bytes=3000000-").send().await;
    assert!(refusal(behind).starts_with("InvalidRange"));

    let etag = put.e_tag().unwrap();
    let unchanged = client.get_object().bucket(BUCKET).key(&key).if_none_match(etag).send().await.unwrap_err();
    assert_eq!(unchanged.raw_response().unwrap().status().as_u16(), 304);
    let other = client.get_object().bucket(BUCKET).key(&key).if_match("\"other\"").send().await;
    assert!(refusal(other).starts_with("PreconditionFailed"));

    endpoint.store.plant(&key, blob.clone(), OffsetDateTime::UNIX_EPOCH);
    let source = format!("{BUCKET}/{key}");
    let copy = client.copy_object().bucket(BUCKET).key(&key).copy_source(&source).metadata_directive(MetadataDirective::Replace);
    copy.send().await.unwrap();
    let head = client.head_object().bucket(BUCKET).key(&key).send().await.unwrap();
    assert!(head.last_modified().unwrap().secs() > 0);
    let elsewhere = client.copy_object().bucket(BUCKET).key(blob_key(b"x")).copy_source(&source).send().await;
    assert!(refusal(elsewhere).starts_with("NotImplemented: an object can be copied onto itself only"));

    client.delete_object().bucket(BUCKET).key(&key).send().await.unwrap();
    assert!(endpoint.store.keys().is_empty());
    client.delete_object().bucket(BUCKET).key(&key).send().await.unwrap();

    let metrics = endpoint.metrics.encode();
    for line in [
        r#"remora_requests_total{endpoint="s3",operation="HeadObject",class="miss"} 1"#,
        r#"remora_requests_total{endpoint="s3",operation="PutObject",class="ok"} 1"#,
        r#"remora_misses_total{endpoint="s3",kind="blob"} 2"#,
        r#"remora_received_bytes_total{endpoint="s3"} 3000000"#,
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
}

#[tokio::test]
async fn an_empty_blob_is_a_blob() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client("OPERATOR");
    client.put_object().bucket(BUCKET).key(blob_key(b"")).body(ByteStream::from_static(b"")).send().await.unwrap();
    let got = client.get_object().bucket(BUCKET).key(blob_key(b"")).send().await.unwrap();
    assert_eq!(got.content_length(), Some(0));
    assert!(got.body.collect().await.unwrap().into_bytes().is_empty());
}

#[tokio::test]
async fn bytes_with_another_digest_are_refused_and_never_seen() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client("OPERATOR");
    for size in [10, 2_000_000] {
        let put = client.put_object().bucket(BUCKET).key(blob_key(b"good")).body(ByteStream::from(content(size, 2))).send().await;
        let refusal = refusal(put);
        assert!(refusal.starts_with("PreconditionFailed") && refusal.contains("have the digest"), "{refusal}");
    }
    assert!(endpoint.store.keys().is_empty());
}

#[tokio::test]
async fn checksums_in_trailers_and_headers_are_held_against_manifests() {
    let endpoint = Endpoint::start().await;
    let config = endpoint.config("OPERATOR", "secret of OPERATOR");
    let client = Client::from_conf(config.request_checksum_calculation(RequestChecksumCalculation::WhenSupported).build());
    for algorithm in [
        ChecksumAlgorithm::Crc32,
        ChecksumAlgorithm::Crc32C,
        ChecksumAlgorithm::Crc64Nvme,
        ChecksumAlgorithm::Sha1,
        ChecksumAlgorithm::Sha256,
    ] {
        let put = client.put_object().bucket(BUCKET).key("manifests/app").body(ByteStream::from(manifest(&[])));
        put.checksum_algorithm(algorithm.clone()).send().await.unwrap_or_else(|error| panic!("{algorithm:?}: {error:?}"));
        let path = endpoint._data_dir.path().join("body");
        std::fs::write(&path, manifest(&[])).unwrap();
        let streamed = ByteStream::from_path(&path).await.unwrap();
        let put = client.put_object().bucket(BUCKET).key("manifests/app").body(streamed);
        put.checksum_algorithm(algorithm.clone()).send().await.unwrap_or_else(|error| panic!("{algorithm:?}: {error:?}"));
    }
    let wrong = client.put_object().bucket(BUCKET).key("manifests/app").body(ByteStream::from(manifest(&[])));
    let refusal = refusal(wrong.checksum_crc32("AAAAAA==").send().await);
    assert!(refusal.contains("x-amz-checksum-crc32 of what arrived is"), "{refusal}");
}

/// Sends bytes that are not the ones that were signed.
#[derive(Debug)]
struct Swapped(Bytes);

impl Intercept for Swapped {
    fn name(&self) -> &'static str {
        "Swapped"
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _: &RuntimeComponents,
        _: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        *context.request_mut().body_mut() = SdkBody::from(self.0.clone());
        Ok(())
    }
}

#[tokio::test]
async fn bytes_that_were_not_signed_are_never_stored() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client("OPERATOR");
    let with = |end: &str| Bytes::from([&manifest(&[])[..], end.as_bytes()].concat());
    let (signed, sent) = (with(" "), with("\n"));

    let put = client.put_object().bucket(BUCKET).key("manifests/app").body(ByteStream::from(signed.clone()));
    let refused = refusal(put.customize().interceptor(Swapped(sent.clone())).send().await);
    assert!(refused.contains("x-amz-content-sha256 of what arrived is"), "{refused}");

    let upload = client.create_multipart_upload().bucket(BUCKET).key("manifests/app").send().await.unwrap();
    let part = client.upload_part().bucket(BUCKET).key("manifests/app").upload_id(upload.upload_id().unwrap()).part_number(1);
    let part = part.body(ByteStream::from(signed)).customize().interceptor(Swapped(sent)).send().await;
    assert!(refusal(part).contains("x-amz-content-sha256 of what arrived is"));

    let put = client.put_object().bucket(BUCKET).key(blob_key(b"signed")).body(ByteStream::from_static(b"signed"));
    let refused = refusal(put.customize().interceptor(Swapped(Bytes::from_static(b"edited"))).send().await);
    assert!(refused.contains("have the digest"), "{refused}");
    assert!(endpoint.store.keys().is_empty());
}

#[tokio::test]
async fn a_manifest_is_published_when_its_blobs_are_there_and_served_byte_for_byte() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client("OPERATOR");
    let document = manifest(&[b"layer"]);
    let put = || client.put_object().bucket(BUCKET).key("manifests/team/app").body(ByteStream::from(document.clone()));

    let early = refusal(put().send().await);
    assert!(early.starts_with("PreconditionFailed") && early.contains("not stored"), "{early}");
    assert!(endpoint.store.keys().is_empty());
    endpoint.plant("", &Bytes::from_static(b"layer"));
    let etag = put().if_none_match("*").send().await.unwrap().e_tag().unwrap().to_owned();
    assert!(refusal(put().if_none_match("*").send().await).starts_with("PreconditionFailed"));
    assert!(refusal(put().if_match("\"other\"").send().await).starts_with("PreconditionFailed"));
    put().if_match(etag).send().await.unwrap();

    let got = client.get_object().bucket(BUCKET).key("manifests/team/app").send().await.unwrap();
    assert_eq!(got.body.collect().await.unwrap().into_bytes(), document);
    let part = client.get_object().bucket(BUCKET).key("manifests/team/app").range("bytes=2-9").send().await.unwrap();
    assert_eq!(part.body.collect().await.unwrap().into_bytes(), document.slice(2..10));

    let nonsense = client.put_object().bucket(BUCKET).key("manifests/app").body(ByteStream::from_static(b"[]")).send().await;
    assert!(refusal(nonsense).starts_with("InvalidRequest: invalid: "));
    endpoint.store.plant("manifests/bad", Bytes::from_static(b"{"), OffsetDateTime::now_utc());
    assert!(refusal(client.get_object().bucket(BUCKET).key("manifests/bad").send().await).starts_with("CorruptObject"));
}

#[tokio::test]
async fn a_manifest_of_50_mb_is_refused_by_name_of_the_limit() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client("OPERATOR");
    let huge = Bytes::from(vec![b' '; 50_000_000]);
    let put = client.put_object().bucket(BUCKET).key("manifests/app").body(ByteStream::from(huge.clone())).send().await;
    let whole = refusal(put);
    assert!(whole.starts_with("EntityTooLarge") && whole.contains("limits.max_manifest_bytes"), "{whole}");

    // It comes in parts that are each small enough, as BuildKit would send it.
    let upload = client.create_multipart_upload().bucket(BUCKET).key("manifests/app").send().await.unwrap();
    let id = upload.upload_id().unwrap();
    let chunks: Vec<Bytes> = (0..5).map(|part| huge.slice(part * 10_000_000..(part + 1) * 10_000_000)).collect();
    let parts = send_parts(&client, "manifests/app", id, &chunks, &[0, 1, 2, 3, 4]).await;
    let joined = refusal(complete(&client, "manifests/app", id, parts).await);
    assert!(joined.starts_with("EntityTooLarge") && joined.contains("limits.max_manifest_bytes"), "{joined}");
}

#[tokio::test]
async fn asking_for_an_old_blob_before_an_export_touches_it() {
    let endpoint = Endpoint::start().await;
    let blob = Bytes::from_static(b"old");
    let key = blob_key(&blob);
    endpoint.store.plant(&key, blob, OffsetDateTime::UNIX_EPOCH);
    let head = endpoint.client("OPERATOR").head_object().bucket(BUCKET).key(&key).send().await.unwrap();
    let modified = head.last_modified().unwrap().secs();
    assert!(OffsetDateTime::now_utc().unix_timestamp() - modified < 3600, "{modified}");
}

#[tokio::test]
async fn buckets_and_their_objects_are_listed() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client("OPERATOR");
    let mut blobs: Vec<String> = (0..5_u8).map(|byte| endpoint.plant("", &Bytes::from(vec![byte]))).collect();
    blobs.sort();
    let document = manifest(&[]);
    for key in ["manifests/app", "manifests/app/next", "team/manifests/a+b é"] {
        client.put_object().bucket(BUCKET).key(key).body(ByteStream::from(document.clone())).send().await.unwrap();
    }
    endpoint.store.plant("labels/sha256:0", Bytes::new(), OffsetDateTime::now_utc());
    endpoint.store.plant("foreign", Bytes::new(), OffsetDateTime::now_utc());

    let list = || client.list_objects_v2().bucket(BUCKET);
    let keys = |page: &aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output| {
        page.contents().iter().map(|object| object.key().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let prefixes = |page: &aws_sdk_s3::operation::list_objects_v2::ListObjectsV2Output| {
        page.common_prefixes().iter().map(|common| common.prefix().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let all: Vec<String> =
        blobs.iter().cloned().chain(["manifests/app", "manifests/app/next", "team/manifests/a+b é"].map(str::to_owned)).collect();
    assert_eq!(keys(&list().send().await.unwrap()), all);
    let top = list().delimiter("/").send().await.unwrap();
    assert_eq!((keys(&top).len(), prefixes(&top)), (0, ["blobs/", "manifests/", "team/"].map(str::to_owned).to_vec()));
    let folder = list().prefix("manifests/").delimiter("/").send().await.unwrap();
    assert_eq!((keys(&folder), prefixes(&folder)), (vec!["manifests/app".to_owned()], vec!["manifests/app/".to_owned()]));
    assert_eq!(keys(&list().start_after(&blobs[3]).prefix("blobs/").send().await.unwrap()), blobs[4..]);
    let encoded = list().prefix("team/").encoding_type(aws_sdk_s3::types::EncodingType::Url).send().await.unwrap();
    assert_eq!(keys(&encoded), ["team/manifests/a%2Bb%20%C3%A9"]);

    for delimiter in [None, Some("/".to_owned())] {
        let mut token = None;
        let mut pages = 0;
        let mut found = Vec::new();
        let mut common = Vec::new();
        loop {
            let page = list().max_keys(2).set_delimiter(delimiter.clone()).set_continuation_token(token).send().await.unwrap();
            assert!(page.key_count().unwrap() <= 2);
            pages += 1;
            found.extend(keys(&page));
            common.extend(prefixes(&page));
            token = page.next_continuation_token().map(str::to_owned);
            assert_eq!(page.is_truncated(), Some(token.is_some()));
            if token.is_none() {
                break;
            }
        }
        match delimiter {
            None => assert_eq!((found, pages), (all.clone(), 4)),
            Some(_) => assert_eq!((common.len(), pages), (3, 2)),
        }
    }
    assert!(refusal(list().continuation_token("x").send().await).starts_with("InvalidArgument"));

    let buckets = client.list_buckets().send().await.unwrap();
    assert_eq!(buckets.buckets().iter().map(|bucket| bucket.name().unwrap()).collect::<Vec<_>>(), [BUCKET]);
    client.head_bucket().bucket(BUCKET).send().await.unwrap();
    let location = client.get_bucket_location().bucket(BUCKET).send().await.unwrap();
    assert_eq!(location.location_constraint().unwrap().as_str(), "eu-west-1");

    // A key for a prefix sees what is below it.
    let team = endpoint.client("TEAM");
    assert_eq!(keys(&team.list_objects_v2().bucket(BUCKET).send().await.unwrap()), ["team/manifests/a+b é"]);
    let foreign = team.list_objects_v2().bucket(BUCKET).prefix("blobs/").send().await;
    assert!(refusal(foreign).starts_with("AccessDenied"));
}

#[tokio::test]
async fn a_client_that_leaves_stops_the_stores_stream() {
    let endpoint = Endpoint::start().await;
    let blob = content(64 << 20, 5);
    let key = endpoint.plant("", &blob);
    let mut reads = endpoint.store.reads();
    let client = endpoint.client("OPERATOR");
    let mut got = client.get_object().bucket(BUCKET).key(&key).send().await.unwrap();
    got.body.next().await.unwrap().unwrap();
    drop(got);
    drop(client);
    let stopped = reads.wait_for(|reads| reads.bytes > 0 && reads.open == 0);
    let end = *tokio::time::timeout(Duration::from_secs(60), stopped).await.expect("the store's stream goes on").unwrap();
    assert!(end.bytes < blob.len() as u64, "{end:?}");
}

#[tokio::test]
async fn a_drain_lets_a_read_in_flight_finish() {
    let endpoint = Endpoint::start().await;
    let blob = content(64 << 20, 6);
    let key = endpoint.plant("", &blob);
    let client = endpoint.client("OPERATOR");
    let got = client.get_object().bucket(BUCKET).key(&key).send().await.unwrap();
    endpoint.shutdown.drain();
    let finished = tokio::join!(got.body.collect(), endpoint.shutdown.finish(Duration::from_secs(60)));
    assert_eq!(finished.0.unwrap().into_bytes(), blob);
    assert!(finished.1, "the drain ran into its deadline");
    TcpStream::connect(&endpoint.address).await.unwrap_err();
}
