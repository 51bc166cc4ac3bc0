//! Where the store's credentials come from, and what happens when they expire or are refused.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use axum::http::StatusCode;
use remora::metrics::Metrics;
use remora::shutdown::Shutdown;
use remora::store::{Credentials, Guarded, Policy, S3, Store as _};

use crate::support::fake_s3::FakeS3;
use crate::support::minio::{ACCESS_KEY_ID, Minio, SECRET_ACCESS_KEY};
use crate::support::s3_config::static_config;

/// What `connect` and `check` say in a process with nothing but `environment`.
///
/// The AWS SDK reads the environment of its process, so this test program is run again as that process.
async fn outcome_in(environment: &[(&str, &str)], bucket: &str) -> String {
    let (_, module) = module_path!().split_once("::").unwrap();
    let mut child = tokio::process::Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", &format!("{module}::in_a_process_of_its_own"), "--ignored", "--nocapture"]).env_clear();
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
    let minio = Minio::shared();
    let bucket = minio.new_bucket();
    let keys = [("AWS_ACCESS_KEY_ID", ACCESS_KEY_ID), ("AWS_SECRET_ACCESS_KEY", SECRET_ACCESS_KEY)];
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
    let minio = Minio::shared();
    let bucket = minio.new_bucket();
    let files = tempfile::TempDir::new().unwrap();
    let path = files.path().join("config").display().to_string();
    let access_key = ACCESS_KEY_ID;
    let secret_key = SECRET_ACCESS_KEY;
    let endpoint = minio.endpoint();
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

/// The pause between checks in a process that makes several.
const PAUSE: Duration = Duration::from_millis(200);
/// After this long the store revokes the first credentials. By then a refusal is not put down to credentials that were
/// only just fetched, and 40 checks are not over.
const REVOKED_AFTER: Duration = Duration::from_millis(6500);

#[tokio::test]
async fn credentials_that_expire_are_renewed_in_time() {
    let server = FakeS3::start().await;
    let access_key = server.access_key();
    let secret_key = server.secret_key();
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

/// The store stops accepting credentials before the time at which they say that they expire.
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
