//! The s3 endpoint through the AWS SDK, over real sockets.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::presigning::PresigningConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, CompletedMultipartUpload, CompletedPart, MetadataDirective};
use aws_smithy_async::time::StaticTimeSource;
use bytes::Bytes;
use remora::auth::{BuildGuard, Keyring, OperatorKey, Purpose};
use remora::cache::{Cache, Settings};
use remora::endpoints::{Listener, s3};
use remora::metrics::Metrics;
use remora::shutdown::Shutdown;
use remora::store::{Served, Stores};
use remora::types::{Digest, Grant, Right, Rights, Scope};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::memory_store::MemoryStore;

const BUCKET: &str = "build-cache";
const MAX_MANIFEST_BYTES: u64 = 32 << 20;

/// A running s3 endpoint over a bucket in memory.
struct Endpoint {
    address: String,
    store: MemoryStore,
    keyring: Keyring,
    metrics: Metrics,
    shutdown: Shutdown,
    _data_dir: tempfile::TempDir,
}

impl Endpoint {
    async fn start() -> Self {
        let (store, data_dir) = (MemoryStore::default(), tempfile::tempdir().unwrap());
        let served = Served { store: Arc::new(store.clone()), region: Some("eu-west-1".to_owned()), prefix: String::new() };
        let bucket = BUCKET.parse().unwrap();
        let stores = Stores::Buckets { served: BTreeMap::from([(BUCKET.parse().unwrap(), served)]), default: bucket };
        let settings = Settings {
            spool_dir: data_dir.path().join("spool"),
            max_manifest_bytes: MAX_MANIFEST_BYTES,
            max_open_ingests: 16,
            ingest_expiry: Duration::from_secs(3600),
            presence_max_age: Duration::from_secs(600),
            merge: None,
            transfer_memory: 32 << 20,
        };
        let (metrics, shutdown) = (Metrics::default(), Shutdown::default());
        let cache = Cache::open(stores, settings, metrics.clone(), shutdown.clone()).await.unwrap();
        let scoped = |prefix: &str| Scope::new(BUCKET.parse().unwrap(), prefix).unwrap();
        let keys = [
            ("OPERATOR", Grant::operator(scoped(""))),
            ("TEAM", Grant::operator(scoped("team/"))),
            ("READER", Grant::builder(scoped(""), Rights::of(&[Right::Read])).build()),
        ];
        let keys = keys.map(|(id, grant)| OperatorKey {
            access_key_id: id.to_owned(),
            secret_access_key: format!("secret of {id}").into(),
            grant,
        });
        let keyring = Keyring::new(keys.into(), Duration::ZERO);
        let config = s3::Config { clock_skew: Duration::from_secs(900), max_connections: 64 };
        let endpoint = Arc::new(s3::S3::new(cache, keyring.clone(), config, metrics.clone()));
        let listener = Listener::bind(&"tcp://127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.address().to_string().replace("tcp://", "");
        let served = shutdown.clone();
        shutdown.spawn(async move { endpoint.serve(listener, served).await });
        Self { address, store, keyring, metrics, shutdown, _data_dir: data_dir }
    }

    fn config(&self, id: &str, secret: &str) -> aws_sdk_s3::config::Builder {
        aws_sdk_s3::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new("eu-west-1"))
            .credentials_provider(Credentials::new(id, secret, None, None, "test"))
            .endpoint_url(format!("http://{}", self.address))
            .force_path_style(true)
            .retry_config(aws_sdk_s3::config::retry::RetryConfig::disabled())
            .http_client(aws_smithy_http_client::Builder::new().build_http())
    }

    fn client(&self, id: &str) -> Client {
        Client::from_conf(self.config(id, &format!("secret of {id}")).build())
    }

    /// A client with the grant that a build gets for `manifests/app`.
    fn build_client(&self, build: &str, purpose: Purpose) -> (Client, BuildGuard) {
        let guard = self.keyring.begin_build(build);
        let scope = Scope::new(BUCKET.parse().unwrap(), "").unwrap();
        let grant = self.keyring.issue(build, purpose, &scope, &["app".parse().unwrap()]).unwrap();
        (Client::from_conf(self.config(&grant.access_key_id, &grant.secret_access_key).build()), guard)
    }

    /// Plants a blob past the endpoint; returns its key.
    fn plant(&self, prefix: &str, content: &Bytes) -> String {
        let key = format!("{prefix}blobs/{}", Digest::of(content));
        self.store.plant(&key, content.clone(), OffsetDateTime::now_utc());
        key
    }

    /// Sends bytes as they are and returns all that comes back.
    async fn send(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).await.unwrap();
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }
}

fn blob_key(content: &[u8]) -> String {
    format!("blobs/{}", Digest::of(content))
}

/// A manifest that names these blobs, as BuildKit writes it.
fn manifest(blobs: &[&[u8]]) -> Bytes {
    let layer = |blob: &&[u8]| {
        let digest = Digest::of(blob);
        format!(
            r#"{{"blob":"{digest}","parent":-1,"annotations":{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","diffID":"{digest}","size":{},"createdAt":"2026-01-01T00:00:00Z"}}}}"#,
            blob.len()
        )
    };
    let layers: Vec<String> = blobs.iter().map(layer).collect();
    format!(r#"{{"layers":[{}]}}"#, layers.join(",")).into()
}

/// Bytes that do not repeat.
fn content(len: usize, seed: u64) -> Bytes {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

/// The code and message of a refusal.
fn refusal<T: std::fmt::Debug, E>(result: Result<T, SdkError<E>>) -> String
where
    SdkError<E>: ProvideErrorMetadata,
    E: std::fmt::Debug,
{
    let error = result.unwrap_err();
    match (error.code(), error.message()) {
        (Some(code), message) => format!("{code}: {}", message.unwrap_or_default()),
        (None, _) => {
            let status = error.raw_response().map(|response| response.status().as_u16());
            format!("{}", status.unwrap_or_else(|| panic!("no answer: {error:?}")))
        }
    }
}

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

    // In parts, each small enough, as BuildKit would send it.
    let upload = client.create_multipart_upload().bucket(BUCKET).key("manifests/app").send().await.unwrap();
    let id = upload.upload_id().unwrap();
    let pieces: Vec<Bytes> = (0..5).map(|part| huge.slice(part * 10_000_000..(part + 1) * 10_000_000)).collect();
    let parts = send_parts(&client, "manifests/app", id, &pieces, &[0, 1, 2, 3, 4]).await;
    let joined = refusal(complete(&client, "manifests/app", id, parts).await);
    assert!(joined.starts_with("EntityTooLarge") && joined.contains("limits.max_manifest_bytes"), "{joined}");
}

/// Sends the pieces in `order`; returns the parts in rising order.
async fn send_parts(client: &Client, key: &str, id: &str, pieces: &[Bytes], order: &[usize]) -> Vec<CompletedPart> {
    let mut parts = Vec::new();
    for &index in order {
        let number = i32::try_from(index).unwrap() + 1;
        let part = client.upload_part().bucket(BUCKET).key(key).upload_id(id).part_number(number);
        let sent = part.body(ByteStream::from(pieces[index].clone())).send().await.unwrap();
        parts.push(CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag().map(str::to_owned)).build());
    }
    parts.sort_by_key(CompletedPart::part_number);
    parts
}

async fn complete(
    client: &Client,
    key: &str,
    id: &str,
    parts: Vec<CompletedPart>,
) -> Result<
    aws_sdk_s3::operation::complete_multipart_upload::CompleteMultipartUploadOutput,
    SdkError<aws_sdk_s3::operation::complete_multipart_upload::CompleteMultipartUploadError>,
> {
    let parts = CompletedMultipartUpload::builder().set_parts(Some(parts)).build();
    client.complete_multipart_upload().bucket(BUCKET).key(key).upload_id(id).multipart_upload(parts).send().await
}

#[tokio::test]
async fn parts_arrive_in_any_order_and_are_joined_in_the_right_one() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client("OPERATOR");
    let pieces = [content(5 << 20, 1), content(5 << 20, 2), content(1000, 3)];
    let blob = pieces.concat();
    let key = blob_key(&blob);
    let begin = || async {
        let upload = client.create_multipart_upload().bucket(BUCKET).key(&key).send().await.unwrap();
        upload.upload_id().unwrap().to_owned()
    };

    let id = begin().await;
    let parts = send_parts(&client, &key, &id, &pieces, &[2, 0, 1]).await;
    assert!(endpoint.store.keys().is_empty());
    let listed = client.list_parts().bucket(BUCKET).key(&key).upload_id(&id).send().await.unwrap();
    assert_eq!(listed.parts().iter().map(|part| part.size().unwrap()).collect::<Vec<_>>(), [5 << 20, 5 << 20, 1000]);
    // Wrong joins are refused, and the upload is there still.
    let short = refusal(complete(&client, &key, &id, parts[..2].to_vec()).await);
    assert!(short.contains("have the digest"), "{short}");
    let turned = parts.iter().rev().cloned().collect();
    assert!(refusal(complete(&client, &key, &id, turned).await).contains("rising order"));
    assert!(endpoint.store.keys().is_empty());
    complete(&client, &key, &id, parts.clone()).await.unwrap();
    assert_eq!(endpoint.store.bytes(&key).unwrap(), blob);
    assert!(refusal(complete(&client, &key, &id, parts).await).starts_with("NoSuchUpload"));

    let id = begin().await;
    let other = client.upload_part().bucket(BUCKET).key(blob_key(b"x")).upload_id(&id).part_number(1).send().await;
    assert!(refusal(other).starts_with("NoSuchUpload"));
    client.abort_multipart_upload().bucket(BUCKET).key(&key).upload_id(&id).send().await.unwrap();
    let late = client.upload_part().bucket(BUCKET).key(&key).upload_id(&id).part_number(1).send().await;
    assert!(refusal(late).starts_with("NoSuchUpload"));
}

#[tokio::test]
async fn asking_for_an_old_blob_before_an_export_makes_it_young() {
    let endpoint = Endpoint::start().await;
    let blob = Bytes::from_static(b"old");
    let key = blob_key(&blob);
    endpoint.store.plant(&key, blob, OffsetDateTime::UNIX_EPOCH);
    let head = endpoint.client("OPERATOR").head_object().bucket(BUCKET).key(&key).send().await.unwrap();
    let modified = head.last_modified().unwrap().secs();
    assert!(OffsetDateTime::now_utc().unix_timestamp() - modified < 3600, "{modified}");
}

#[tokio::test]
async fn a_copy_in_parts_onto_itself_is_a_touch() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client("OPERATOR");
    let key = blob_key(b"large");
    endpoint.store.plant(&key, Bytes::from_static(b"large"), OffsetDateTime::UNIX_EPOCH);
    let upload = client.create_multipart_upload().bucket(BUCKET).key(&key).send().await.unwrap();
    let id = upload.upload_id().unwrap();
    let part = client.upload_part_copy().bucket(BUCKET).key(&key).upload_id(id).part_number(1);
    let copied = part.copy_source(format!("{BUCKET}/{key}")).copy_source_range("bytes=0-4").send().await.unwrap();
    let etag = copied.copy_part_result().unwrap().e_tag().map(str::to_owned);
    complete(&client, &key, id, vec![CompletedPart::builder().part_number(1).set_e_tag(etag).build()]).await.unwrap();
    assert_eq!(endpoint.store.bytes(&key).unwrap(), &b"large"[..]);
    let head = client.head_object().bucket(BUCKET).key(&key).send().await.unwrap();
    assert!(head.last_modified().unwrap().secs() > 0);
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
        let (mut token, mut pages, mut found, mut common) = (None, 0, Vec::new(), Vec::new());
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
async fn who_may_not_is_told_why() {
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
    let ended = refusal(get(&importer, "manifests/app").await);
    assert_eq!(ended, "ExpiredToken: this grant has ended with the build that it was made for");
}

#[tokio::test]
async fn a_refused_upload_is_answered_even_while_its_body_is_on_the_way() {
    let endpoint = Endpoint::start().await;
    let body = content(8 << 20, 4);
    let head = format!("PUT /{BUCKET}/manifests/app HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut stream = TcpStream::connect(&endpoint.address).await.unwrap();
    // As Go's client: a failed write hides the answer.
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&body).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403") && answer.contains("must be signed"), "{answer}");
}

#[tokio::test]
async fn a_clock_that_is_off_is_named() {
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
