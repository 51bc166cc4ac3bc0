//! What only the S3 store has: credentials, the classes of S3's errors, what it asks of new objects.

use std::borrow::Cow;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use bytes::Bytes;
use remora::metrics::Metrics;
use remora::shutdown::Shutdown;
use remora::store::{
    Body, Checksums, Condition, Credentials, Deadlines, Error, Guarded, Policy, S3, S3Config, ServerSideEncryption, Store as _,
};
use remora::types::{BucketName, ETag, Key};
use s3s::dto;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use crate::support::fake_s3::FakeS3;
use crate::support::minio::Minio;

/// A bucket on a server of the tests.
pub fn static_config(bucket: BucketName, endpoint: &str, access_key: &str, secret_key: &str) -> S3Config {
    S3Config {
        bucket,
        endpoint: Some(endpoint.to_owned()),
        region: None,
        path_style: None,
        credentials: Credentials::Static {
            access_key_id: access_key.to_owned(),
            secret_access_key: secret_key.to_owned().into(),
            session_token: None,
        },
        sse: None,
        storage_class: None,
        acl: None,
        expected_bucket_owner: None,
        checksums: Checksums::WhenRequired,
        deadlines: Deadlines::default(),
    }
}

async fn minio_config() -> S3Config {
    let minio = Minio::shared().await;
    static_config(minio.new_bucket().await, minio.endpoint(), minio.access_key(), minio.secret_key())
}

fn key() -> Key {
    Key::new("folder/", "key +%é")
}

fn body() -> Body {
    Body::Bytes(Bytes::from_static(b"body"))
}

#[tokio::test]
async fn knows_itself() {
    let config = minio_config().await;
    let name = config.bucket.clone();
    let store = S3::connect(config.clone()).await.unwrap();
    assert_eq!((store.url(), store.region(), store.gains_by_parts()), (format!("s3://{name}"), Some("us-east-1"), true));
    let debug = format!("{store:?} {config:?}");
    assert!(debug.contains(name.as_str()) && !debug.contains(Minio::shared().await.secret_key()), "{debug}");
    let elsewhere = S3::connect(S3Config { region: Some("eu-west-1".to_owned()), ..config }).await.unwrap();
    assert_eq!(elsewhere.region(), Some("eu-west-1"));
}

/// What `connect` and `check` say in a process with nothing but `environment`.
///
/// The AWS SDK reads the environment of its process, so this test program is run again as that process.
async fn outcome_in(environment: &[(&str, &str)], bucket: &str) -> String {
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "store_s3::in_a_process_of_its_own", "--ignored", "--nocapture"]).env_clear();
    child.envs([("REMORA_TEST_BUCKET", bucket), ("AWS_EC2_METADATA_DISABLED", "true"), ("HOME", "/nonexistent")]);
    let output = child.envs(environment.iter().copied()).kill_on_drop(true).output().await.unwrap();
    String::from_utf8([output.stdout, output.stderr].concat()).unwrap()
}

#[tokio::test]
#[ignore = "run by outcome_in alone, with an environment made for it"]
async fn in_a_process_of_its_own() {
    let bucket = std::env::var_os("REMORA_TEST_BUCKET").expect("outcome_in sets this");
    let mut config = static_config(bucket.to_str().unwrap().parse().unwrap(), "", "", "");
    config.endpoint = None;
    config.credentials = match (std::env::var_os("REMORA_TEST_PROFILE"), std::env::var_os("REMORA_TEST_ROLE")) {
        (Some(profile), _) => Credentials::Profile(profile.into_string().unwrap()),
        (_, Some(role)) => Credentials::AssumeRole { role_arn: role.into_string().unwrap(), external_id: Some("external".to_owned()) },
        (None, None) => Credentials::Default,
    };
    match S3::connect(config).await {
        Ok(store) => {
            println!("region {:?}", store.region());
            let metrics = Metrics::default().store(store.url());
            let store = Guarded::new(Arc::new(store), Policy::default(), metrics, Shutdown::default());
            // Never call the real S3.
            if std::env::vars_os().any(|(name, _)| name == "REMORA_TEST_PROFILE" || name.to_string_lossy().starts_with("AWS_ENDPOINT_URL"))
            {
                let checks = std::env::var_os("REMORA_TEST_CHECKS").map_or(1, |text| text.to_str().unwrap().parse().unwrap());
                for _ in 0..checks {
                    println!("check {:?}", store.check().await);
                    tokio::time::sleep(PAUSE.saturating_mul(u32::from(checks > 1))).await;
                }
            }
        }
        Err(error) => println!("refused: {error}"),
    }
}

#[tokio::test]
async fn the_aws_environment_is_honoured() {
    let minio = Minio::shared().await;
    let bucket = minio.new_bucket().await.to_string();
    let keys = [("AWS_ACCESS_KEY_ID", minio.access_key()), ("AWS_SECRET_ACCESS_KEY", minio.secret_key())];
    let endpoint = ("AWS_ENDPOINT_URL", minio.endpoint());

    let found = outcome_in(&[keys[0], keys[1], endpoint], &bucket).await;
    assert!(found.contains("region Some(\"us-east-1\")\ncheck Ok(())"), "{found}");

    let for_s3 = [keys[0], keys[1], ("AWS_ENDPOINT_URL", "http://127.0.0.1:1"), ("AWS_ENDPOINT_URL_S3", minio.endpoint())];
    let found = outcome_in(&[&for_s3[..], &[("AWS_REGION", "us-east-1")]].concat(), &bucket).await;
    assert!(found.contains("check Ok(())"), "{found}");

    let found = outcome_in(&keys, &bucket).await;
    assert!(found.contains("refused") && found.contains("set region in its configuration, or AWS_REGION"), "{found}");

    let found = outcome_in(&[endpoint], &bucket).await;
    assert!(found.contains("check Err(Denied(") && found.contains("no credentials"), "{found}");
}

#[tokio::test]
async fn profiles_and_assumed_roles_are_honoured() {
    let minio = Minio::shared().await;
    let bucket = minio.new_bucket().await.to_string();
    let files = tempfile::TempDir::new().unwrap();
    let path = files.path().join("config").display().to_string();
    let (access_key, secret_key, endpoint) = (minio.access_key(), minio.secret_key(), minio.endpoint());
    let profile = format!(
        "[profile cache]\nregion = us-east-1\naws_access_key_id = {access_key}\naws_secret_access_key = {secret_key}\nendpoint_url = {endpoint}\n"
    );
    std::fs::write(&path, profile).unwrap();
    let found = outcome_in(&[("AWS_CONFIG_FILE", &path), ("REMORA_TEST_PROFILE", "cache")], &bucket).await;
    assert!(found.contains("region Some(\"us-east-1\")\ncheck Ok(())"), "{found}");

    let server = FakeS3::start().await;
    let (sts, asked) = fake_sts(server.access_key(), server.secret_key()).await;
    let role = [
        ("AWS_ACCESS_KEY_ID", "before"),
        ("AWS_SECRET_ACCESS_KEY", "before"),
        ("AWS_ENDPOINT_URL_S3", server.endpoint()),
        ("AWS_ENDPOINT_URL_STS", &sts),
        ("REMORA_TEST_ROLE", "arn:aws:iam::123456789012:role/cache"),
    ];
    let found = outcome_in(&role, server.bucket().as_str()).await;
    assert!(found.contains("region Some(\"us-east-1\")\ncheck Ok(())"), "{found}");
    let asked = asked.lock().unwrap().clone();
    assert!(asked.contains("RoleArn=arn%3Aaws%3Aiam%3A%3A123456789012%3Arole%2Fcache") && asked.contains("ExternalId=external"), "{asked}");
}

/// Answers every call with a session of the key pair. Returns its URL and what it was asked.
async fn fake_sts(access_key: &str, secret_key: &str) -> (String, Arc<Mutex<String>>) {
    let answer = format!(
        "<AssumeRoleResponse xmlns=\"https://sts.amazonaws.com/doc/2011-06-15/\"><AssumeRoleResult>\
         <AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/cache/remora</Arn><AssumedRoleId>role:remora</AssumedRoleId></AssumedRoleUser>\
         <Credentials><AccessKeyId>{access_key}</AccessKeyId><SecretAccessKey>{secret_key}</SecretAccessKey>\
         <SessionToken>token</SessionToken><Expiration>2099-01-01T00:00:00Z</Expiration></Credentials>\
         </AssumeRoleResult></AssumeRoleResponse>"
    );
    let asked = Arc::new(Mutex::new(String::new()));
    let seen = Arc::clone(&asked);
    let router = axum::Router::new().fallback(move |body: String| async move {
        *seen.lock().unwrap() = body;
        answer
    });
    (serve(router).await, asked)
}

async fn serve(router: axum::Router) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    Shutdown::default().spawn(async move { axum::serve(listener, router).await.unwrap() });
    endpoint
}

/// Between checks of a process that makes several.
const PAUSE: Duration = Duration::from_millis(200);
/// Longer than refusals are thought to be about something else than what was just fetched; less than 40 checks take.
const REVOKED_AFTER: Duration = Duration::from_millis(6500);

#[tokio::test]
async fn credentials_that_expire_are_renewed_in_time() {
    let server = FakeS3::start().await;
    let (access_key, secret_key) = (server.access_key(), server.secret_key());
    let asked = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&asked);
    let router = axum::Router::new().fallback(move || async move {
        seen.fetch_add(1, Ordering::SeqCst);
        let expiry = time::OffsetDateTime::now_utc() + Duration::from_secs(2);
        let expiry = expiry.format(&time::format_description::well_known::Rfc3339).unwrap();
        format!(r#"{{"AccessKeyId":"{access_key}","SecretAccessKey":"{secret_key}","Token":"token","Expiration":"{expiry}"}}"#)
    });
    let container = serve(router).await;
    let environment = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", container.as_str()),
        ("AWS_ENDPOINT_URL_S3", server.endpoint()),
        ("AWS_REGION", "us-east-1"),
        ("REMORA_TEST_CHECKS", "40"),
    ];
    let found = outcome_in(&environment, server.bucket().as_str()).await;
    assert_eq!(found.matches("check Ok(())").count(), 40, "{found}");
    // 40 checks take 8 s at least, and each fetch is good for 1.5.
    assert!((4..40).contains(&asked.load(Ordering::SeqCst)), "{asked:?}");
}

/// A store that takes credentials no more before they say that they expire.
#[tokio::test]
async fn credentials_that_the_store_refuses_are_fetched_anew() {
    let asked = Arc::new(AtomicUsize::new(0));
    let seen = Arc::clone(&asked);
    let container = axum::Router::new().fallback(move || async move {
        let number = seen.fetch_add(1, Ordering::SeqCst) + 1;
        format!(r#"{{"AccessKeyId":"KEY{number}","SecretAccessKey":"secret","Token":"token","Expiration":"2099-01-01T00:00:00Z"}}"#)
    });
    let first_call = Arc::new(OnceLock::new());
    let store = axum::Router::new().fallback(move |headers: axum::http::HeaderMap| async move {
        let revoked = first_call.get_or_init(Instant::now).elapsed() > REVOKED_AFTER;
        let valid = if revoked { "Credential=KEY2/" } else { "Credential=KEY1/" };
        if headers["authorization"].to_str().unwrap().contains(valid) {
            (StatusCode::OK, [("etag", "\"x\"")], "")
        } else {
            (
                StatusCode::BAD_REQUEST,
                [("content-type", "application/xml")],
                "<Error><Code>ExpiredToken</Code><Message>no</Message></Error>",
            )
        }
    });
    let (container, store) = (serve(container).await, serve(store).await);
    let environment = [
        ("AWS_CONTAINER_CREDENTIALS_FULL_URI", container.as_str()),
        ("AWS_ENDPOINT_URL_S3", store.as_str()),
        ("AWS_REGION", "us-east-1"),
        ("REMORA_TEST_CHECKS", "40"),
    ];
    let found = outcome_in(&environment, "bucket").await;
    assert_eq!(found.matches("check Ok(())").count(), 40, "{found}");
    assert_eq!(asked.load(Ordering::SeqCst), 2);
}

#[tokio::test]
async fn an_instance_gives_region_and_credentials() {
    let server = FakeS3::start().await;
    let session = format!(
        r#"{{"Code":"Success","Type":"AWS-HMAC","AccessKeyId":"{}","SecretAccessKey":"{}","Token":"token","Expiration":"2099-01-01T00:00:00Z","LastUpdated":"2025-01-01T00:00:00Z"}}"#,
        server.access_key(),
        server.secret_key()
    );
    let router = axum::Router::new().fallback(move |uri: axum::http::Uri| async move {
        let answer = match uri.path() {
            "/latest/api/token" => "token".to_owned(),
            "/latest/meta-data/placement/region" => "eu-north-1".to_owned(),
            path if path.ends_with("/cache-role") => session,
            path if path.contains("security-credentials") => "cache-role".to_owned(),
            path => panic!("{path}"),
        };
        ([("x-aws-ec2-metadata-token-ttl-seconds", "600")], answer)
    });
    let instance = [("AWS_EC2_METADATA_SERVICE_ENDPOINT", &*serve(router).await), ("AWS_EC2_METADATA_DISABLED", "false")];
    let bucket = server.bucket();
    let found = outcome_in(&instance, bucket.as_str()).await;
    assert!(found.contains("region Some(\"eu-north-1\")"), "{found}");
    let found = outcome_in(&[&instance[..], &[("AWS_ENDPOINT_URL", server.endpoint())]].concat(), bucket.as_str()).await;
    assert!(found.contains("check Ok(())"), "{found}");
}

#[tokio::test]
async fn wrong_credentials_are_denied_without_naming_them() {
    let good = minio_config().await;
    let minio = Minio::shared().await;
    for (access_key, secret_key, code) in
        [(minio.access_key(), "wrong-canary", "SignatureDoesNotMatch"), ("nobody", "wrong-canary", "InvalidAccessKeyId")]
    {
        let store = S3::connect(static_config(good.bucket.clone(), minio.endpoint(), access_key, secret_key)).await.unwrap();
        for outcome in [
            store.put(&key(), body(), Condition::None).await.map(drop),
            store.get(&key(), None, None).await.map(drop),
            store.list("", None, 1).await.map(drop),
            store.check().await,
        ] {
            assert!(matches!(&outcome, Err(Error::Denied(why)) if why.contains(code) && !why.contains("canary")), "{outcome:?}");
        }
        assert!(matches!(store.head(&key()).await, Err(Error::Denied(_))));
    }
}

#[tokio::test]
async fn a_missing_bucket_is_not_found() {
    let config = minio_config().await;
    let store = S3::connect(S3Config { bucket: "no-such-bucket".parse().unwrap(), ..config }).await.unwrap();
    for outcome in [
        store.head(&key()).await.map(drop),
        store.get(&key(), None, None).await.map(drop),
        store.put(&key(), body(), Condition::None).await.map(drop),
        store.put(&key(), body(), Condition::Matches(ETag::new("x"))).await.map(drop),
        store.list("", None, 1).await.map(drop),
        store.check().await,
    ] {
        assert!(matches!(&outcome, Err(Error::NotFound(_))), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_listen_is_unavailable() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = static_config("bucket".parse().unwrap(), &format!("http://{closed}"), "key", "secret");
    let outcome = S3::connect(config).await.unwrap().head(&key()).await;
    assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
}

/// As behind a firewall that drops packets: a server whose queue of connections is full.
#[tokio::test]
async fn a_connection_that_does_not_open_is_given_up() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let (address, mut queue) = (listener.local_addr().unwrap(), Vec::new());
    while let Ok(waiting) = tokio::time::timeout(PAUSE, tokio::net::TcpStream::connect(address)).await {
        queue.push(waiting.unwrap());
    }
    let mut config = static_config("bucket".parse().unwrap(), &format!("http://{address}"), "key", "secret");
    config.deadlines.connect = PAUSE;
    let store = S3::connect(config).await.unwrap();
    // The system itself gives up after two minutes.
    let outcome = tokio::time::timeout(Duration::from_secs(60), store.head(&key())).await.expect("it waits for a connection");
    assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
}

#[tokio::test]
async fn checksums_of_both_kinds_are_accepted() {
    let config = minio_config().await;
    let store = S3::connect(S3Config { checksums: Checksums::WhenSupported, ..config }).await.unwrap();
    store.put(&key(), body(), Condition::Absent).await.unwrap();
    let id = store.begin_multipart(&key()).await.unwrap();
    let part = store.put_part(&key(), &id, 1, body()).await.unwrap();
    store.complete_multipart(&key(), &id, &[part], Condition::None).await.unwrap();
    assert_eq!(store.head(&key()).await.unwrap().size, 4);
}

/// An S3 that writes down what it was asked, and answers as it is told.
#[derive(Clone, Default)]
struct Scripted {
    asked: Arc<Mutex<Vec<String>>>,
    refuse_put: Option<s3s::S3ErrorCode>,
    size: i64,
}

impl Scripted {
    fn note(&self, call: &str, details: impl std::fmt::Debug) {
        self.asked.lock().unwrap().push(format!("{call} {details:?}"));
    }

    async fn store(&self, change: impl FnOnce(&mut S3Config)) -> (S3, FakeS3) {
        let server = FakeS3::serve(self.clone()).await;
        let mut config = static_config(server.bucket(), server.endpoint(), server.access_key(), server.secret_key());
        change(&mut config);
        (S3::connect(config).await.unwrap(), server)
    }
}

fn text<T: Into<Cow<'static, str>>>(value: Option<T>) -> String {
    value.map(|value| value.into().into_owned()).unwrap_or_default()
}

#[async_trait::async_trait]
impl s3s::S3 for Scripted {
    async fn put_object(&self, request: S3Request<dto::PutObjectInput>) -> S3Result<S3Response<dto::PutObjectOutput>> {
        let input = request.input;
        let encryption = (text(input.server_side_encryption), text(input.ssekms_key_id));
        self.note("put", (encryption, text(input.storage_class), text(input.acl), text(input.expected_bucket_owner)));
        match &self.refuse_put {
            Some(code) => Err(s3s::S3Error::with_message(code.clone(), "as told")),
            None => Ok(S3Response::new(dto::PutObjectOutput { e_tag: Some(dto::ETag::Strong("tag".to_owned())), ..Default::default() })),
        }
    }

    async fn head_object(&self, _: S3Request<dto::HeadObjectInput>) -> S3Result<S3Response<dto::HeadObjectOutput>> {
        self.note("head", ());
        Ok(S3Response::new(dto::HeadObjectOutput {
            content_length: Some(self.size),
            e_tag: Some(dto::ETag::Strong("tag".to_owned())),
            last_modified: Some(std::time::SystemTime::now().into()),
            ..Default::default()
        }))
    }

    async fn copy_object(&self, _: S3Request<dto::CopyObjectInput>) -> S3Result<S3Response<dto::CopyObjectOutput>> {
        self.note("copy", ());
        Err(s3_error!(InvalidRequest, "the source is too large"))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<dto::CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<dto::CreateMultipartUploadOutput>> {
        let input = request.input;
        self.note("begin", (text(input.storage_class), text(input.acl), text(input.expected_bucket_owner)));
        Ok(S3Response::new(dto::CreateMultipartUploadOutput { upload_id: Some("upload".to_owned()), ..Default::default() }))
    }

    async fn upload_part_copy(&self, request: S3Request<dto::UploadPartCopyInput>) -> S3Result<S3Response<dto::UploadPartCopyOutput>> {
        let input = request.input;
        self.note("copy part", (input.part_number, text(input.copy_source_range)));
        Ok(S3Response::new(dto::UploadPartCopyOutput {
            copy_part_result: Some(dto::CopyPartResult {
                e_tag: Some(dto::ETag::Strong(format!("part-{}", input.part_number))),
                ..Default::default()
            }),
            ..Default::default()
        }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<dto::CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<dto::CompleteMultipartUploadOutput>> {
        let parts = request.input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        self.note("complete", parts.iter().map(|part| part.part_number.unwrap_or_default()).collect::<Vec<_>>());
        Ok(S3Response::new(dto::CompleteMultipartUploadOutput { e_tag: Some(dto::ETag::Strong("tag".to_owned())), ..Default::default() }))
    }
}

#[tokio::test]
async fn new_objects_get_what_the_operator_asked_for() {
    let s3 = Scripted::default();
    let (store, _server) = s3
        .store(|config| {
            config.sse = Some(ServerSideEncryption::Kms(Some("alias/cache".to_owned())));
            config.storage_class = Some("STANDARD_IA".to_owned());
            config.acl = Some("bucket-owner-full-control".to_owned());
            config.expected_bucket_owner = Some("123456789012".to_owned());
        })
        .await;
    store.put(&key(), body(), Condition::None).await.unwrap();
    store.begin_multipart(&key()).await.unwrap();
    assert_eq!(
        *s3.asked.lock().unwrap(),
        [
            r#"put (("aws:kms", "alias/cache"), "STANDARD_IA", "bucket-owner-full-control", "123456789012")"#,
            r#"begin ("STANDARD_IA", "bucket-owner-full-control", "123456789012")"#,
        ]
    );
}

#[tokio::test]
async fn an_object_too_large_for_one_copy_is_touched_in_parts() {
    let s3 = Scripted { size: (5 << 30) + 1, ..Default::default() };
    let (store, _server) = s3.store(|_| {}).await;
    store.touch(&key()).await.unwrap();
    let mut asked = s3.asked.lock().unwrap().clone();
    asked[3..9].sort();
    assert_eq!(
        asked,
        [
            "copy ()",
            "head ()",
            r#"begin ("", "", "")"#,
            r#"copy part (1, "bytes=0-1073741823")"#,
            r#"copy part (2, "bytes=1073741824-2147483647")"#,
            r#"copy part (3, "bytes=2147483648-3221225471")"#,
            r#"copy part (4, "bytes=3221225472-4294967295")"#,
            r#"copy part (5, "bytes=4294967296-5368709119")"#,
            r#"copy part (6, "bytes=5368709120-5368709120")"#,
            "complete [1, 2, 3, 4, 5, 6]",
        ]
    );
}

#[tokio::test]
async fn a_copy_that_is_refused_for_another_reason_stays_refused() {
    let s3 = Scripted { size: 10, ..Default::default() };
    let (store, _server) = s3.store(|_| {}).await;
    let outcome = store.touch(&key()).await;
    assert!(matches!(&outcome, Err(Error::Invalid(why)) if why.contains("too large")), "{outcome:?}");
}

#[tokio::test]
async fn a_slow_down_is_exhausted_and_left_to_the_guard() {
    let s3 = Scripted { refuse_put: Some(s3s::S3ErrorCode::SlowDown), ..Default::default() };
    let (store, _server) = s3.store(|_| {}).await;
    let outcome = store.put(&key(), body(), Condition::None).await;
    assert!(matches!(&outcome, Err(Error::Exhausted(why)) if why.contains("SlowDown: as told")), "{outcome:?}");
    assert_eq!(s3.asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_conflict_of_conditional_writes_is_a_precondition() {
    let s3 = Scripted { refuse_put: Some(s3s::S3ErrorCode::ConditionalRequestConflict), ..Default::default() };
    let (store, _server) = s3.store(|_| {}).await;
    let outcome = store.put(&key(), body(), Condition::Absent).await;
    assert!(matches!(outcome, Err(Error::Precondition(_))), "{outcome:?}");
}
