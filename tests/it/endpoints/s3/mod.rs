//! The s3 endpoint through the AWS SDK, over real sockets.

mod access;
mod connections;
mod multipart;
mod objects;
mod outages;

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
use remora::auth::{BuildGuard, GrantRequest, Keyring, OperatorKey, Purpose};
use remora::cache::{Cache, Settings};
use remora::config::OnUnavailable;
use remora::endpoints::{Listener, s3};
use remora::metrics::Metrics;
use remora::shutdown::Shutdown;
use remora::store::{GuardedStore, Served, Stores};
use remora::types::{Digest, Durability, Grant, Right, Rights, Scope};
use time::OffsetDateTime;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::support::memory_store::MemoryStore;
use crate::support::settings::settings;

const BUCKET: &str = "build-cache";
const MAX_MANIFEST_BYTES: u64 = 32 << 20;

/// A running s3 endpoint over a bucket in memory.
struct Endpoint {
    address: String,
    store: MemoryStore,
    keyring: Keyring,
    metrics: Metrics,
    shutdown: Shutdown,
    /// Tasks of an endpoint without connections.
    at_rest: usize,
    _data_dir: tempfile::TempDir,
}

impl Endpoint {
    async fn start() -> Self {
        let store = MemoryStore::default();
        Self::over(store.clone(), Arc::new(store), OnUnavailable::Fail, |_| ()).await
    }

    /// Over `served`, whose objects are in `store`.
    async fn over(
        store: MemoryStore,
        served: Arc<dyn GuardedStore>,
        on_unavailable: OnUnavailable,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let data_dir = tempfile::tempdir().unwrap();
        let served = Served { store: served, region: Some("eu-west-1".to_owned()), prefix: String::new() };
        let bucket = BUCKET.parse().unwrap();
        let stores = Stores::Buckets { served: BTreeMap::from([(BUCKET.parse().unwrap(), served)]), default: bucket };
        let mut settings =
            Settings { max_manifest_bytes: MAX_MANIFEST_BYTES, max_open_ingests: 16, ..settings(data_dir.path().join("spool")) };
        change(&mut settings);
        let metrics = Metrics::default();
        let shutdown = Shutdown::default();
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
        let keyring = match on_unavailable {
            OnUnavailable::Miss => Keyring::tolerant(keys.into(), Duration::ZERO),
            OnUnavailable::Fail => Keyring::new(keys.into(), Duration::ZERO),
        };
        let config = s3::Config { clock_skew: Duration::from_secs(900), max_connections: 64 };
        let endpoint = Arc::new(s3::S3::new(cache, keyring.clone(), config, metrics.clone()));
        let listener = Listener::bind(&"tcp://127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.address().to_string().replace("tcp://", "");
        let served = shutdown.clone();
        shutdown.spawn(async move { endpoint.serve(listener, served).await });
        let at_rest = shutdown.tasks();
        Self { address, store, keyring, metrics, shutdown, at_rest, _data_dir: data_dir }
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
        let grant = self
            .keyring
            .issue(build, &GrantRequest { purpose, scope: &scope, names: &["app".parse().unwrap()], durability: Durability::S3 })
            .unwrap();
        (Client::from_conf(self.config(&grant.access_key_id, &grant.secret_access_key).build()), guard)
    }

    /// Plants a blob past the endpoint; returns its key.
    fn plant(&self, prefix: &str, content: &Bytes) -> String {
        let key = format!("{prefix}blobs/{}", Digest::of(content));
        self.store.plant(&key, content.clone(), OffsetDateTime::now_utc());
        key
    }

    /// Waits until no connection is open.
    async fn returns_to_rest(&self) {
        // What stays are the tasks of the accept loop and of the cache.
        while self.shutdown.tasks() > self.at_rest {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
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

/// Sends the chunks in `order`; returns the parts in rising order.
async fn send_parts(client: &Client, key: &str, id: &str, chunks: &[Bytes], order: &[usize]) -> Vec<CompletedPart> {
    let mut parts = Vec::new();
    for &index in order {
        let number = i32::try_from(index).unwrap() + 1;
        let part = client.upload_part().bucket(BUCKET).key(key).upload_id(id).part_number(number);
        let sent = part.body(ByteStream::from(chunks[index].clone())).send().await.unwrap();
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

/// Copies an object onto itself as BuildKit does with those of 5 GiB and more.
async fn touch_in_parts(client: &Client, key: &str) -> Result<(), String> {
    let upload = client.create_multipart_upload().bucket(BUCKET).key(key).send().await.unwrap();
    let id = upload.upload_id().unwrap();
    let part = client.upload_part_copy().bucket(BUCKET).key(key).upload_id(id).part_number(1);
    let copied = part.copy_source(format!("{BUCKET}/{key}")).send().await.unwrap();
    let etag = copied.copy_part_result().unwrap().e_tag().map(str::to_owned);
    let part = CompletedPart::builder().part_number(1).set_e_tag(etag).build();
    let completed = complete(client, key, id, vec![part]).await;
    if completed.is_ok() { Ok(()) } else { Err(refusal(completed)) }
}
