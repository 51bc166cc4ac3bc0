//! A content endpoint in this process, and clients for it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use remora::cache::{Cache, Settings};
use remora::endpoints::Listener;
use remora::endpoints::content::{Config, Content};
use remora::metrics::Metrics;
use remora::proto::cache::manifests_client::ManifestsClient;
use remora::proto::content::content_client::ContentClient;
use remora::proto::content::{WriteAction, WriteContentRequest, WriteContentResponse};
use remora::shutdown::Shutdown;
use remora::store::{S3, S3Config, Served, Stores};
use remora::types::{Address, BucketName, Digest};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Request, Status, Streaming};

use crate::support::guarded::guarded;
use crate::support::memory_store::MemoryStore;
use crate::support::s3_config::minio_config;
use crate::support::settings::settings;

/// A larger manifest is refused.
pub(crate) const MAX_MANIFEST_BYTES: u64 = 32 << 20;
/// Calls that may be under way on a connection.
pub(crate) const MAX_STREAMS: u32 = 64;
/// Ingests that may be open.
pub(crate) const MAX_INGESTS: usize = 8;

/// A content endpoint that serves until it is dropped.
pub(crate) struct Endpoint {
    /// `host:port`.
    pub(crate) address: String,
    pub(crate) metrics: Metrics,
    pub(crate) shutdown: Shutdown,
    pub(crate) channel: Channel,
    pub(crate) data: Arc<TempDir>,
}

impl Endpoint {
    /// Over a directory of its own.
    pub(crate) async fn on_directory() -> Self {
        Self::on(Arc::new(tempfile::tempdir().unwrap()), None).await
    }

    /// Over the directory in `data`, taking up what an earlier one left there.
    pub(crate) async fn on(data: Arc<TempDir>, token: Option<&str>) -> Self {
        let stores = Stores::Directory { root: data.path().join("store"), default: "remora".parse().unwrap() };
        Self::start(stores, data, token).await
    }

    /// Over a store in memory.
    pub(crate) async fn on_memory() -> (Self, MemoryStore) {
        let store = MemoryStore::default();
        let bucket = "remora".parse::<BucketName>().unwrap();
        let served = Served { store: Arc::new(store.clone()), region: None, prefix: String::new() };
        let stores = Stores::Buckets { served: [(bucket.clone(), served)].into(), default: bucket };
        (Self::start(stores, Arc::new(tempfile::tempdir().unwrap()), None).await, store)
    }

    /// Over a new bucket of MinIO, of which it serves `prefix`.
    pub(crate) async fn on_minio(prefix: &str) -> (Self, String) {
        let config = S3Config { region: Some("us-east-1".to_owned()), path_style: Some(true), ..minio_config() };
        let bucket = config.bucket.clone();
        let store = S3::connect(config).await.unwrap();
        let served = Served { store: Arc::new(guarded(store)), region: None, prefix: prefix.to_owned() };
        let stores = Stores::Buckets { served: BTreeMap::from([(bucket.clone(), served)]), default: bucket.clone() };
        (Self::start(stores, Arc::new(tempfile::tempdir().unwrap()), None).await, bucket.to_string())
    }

    async fn start(stores: Stores, data: Arc<TempDir>, token: Option<&str>) -> Self {
        let settings =
            Settings { max_manifest_bytes: MAX_MANIFEST_BYTES, max_open_ingests: MAX_INGESTS, ..settings(data.path().join("spool")) };
        let shutdown = Shutdown::default();
        let metrics = Metrics::default();
        let cache = Cache::open(stores, settings, metrics.clone(), shutdown.clone()).await.unwrap();
        let config = Config { token: token.map(Into::into), max_connections: 64, max_streams: MAX_STREAMS };
        let content = Arc::new(Content::new(cache, config, metrics.clone()));
        let listener = Listener::bind(&"tcp://127.0.0.1:0".parse().unwrap()).await.unwrap();
        let Address::Tcp(address) = listener.address().clone() else { unreachable!() };
        shutdown.spawn(content.serve(listener, shutdown.clone()));
        let channel = Channel::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        Self { address, metrics, shutdown, channel, data }
    }

    pub(crate) fn content(&self) -> ContentClient<Channel> {
        ContentClient::new(self.channel.clone()).max_decoding_message_size(16 << 20)
    }

    pub(crate) fn manifests(&self) -> ManifestsClient<Channel> {
        ManifestsClient::new(self.channel.clone()).max_decoding_message_size(64 << 20)
    }

    /// What the spool holds.
    pub(crate) fn spool(&self) -> Vec<String> {
        files(&self.data.path().join("spool"))
    }

    /// Stores a blob in one message.
    pub(crate) async fn store(&self, data: &[u8]) -> Digest {
        let digest = Digest::of(data);
        let mut stream = self.write().await;
        let request = WriteContentRequest { offset: 0, data: data.to_vec().into(), ..commit(&format!("store-{digest}"), 0, "") };
        assert_eq!(stream.exchange(request).await.unwrap().digest, digest.to_string());
        digest
    }

    /// Opens a Write.
    pub(crate) async fn write(&self) -> Write {
        Write::open(self.content(), &[]).await
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.shutdown.stop();
    }
}

pub(crate) fn files(dir: &Path) -> Vec<String> {
    std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

/// A stream of Write. Dropping it cancels the call.
pub(crate) struct Write {
    requests: Option<mpsc::Sender<WriteContentRequest>>,
    answers: Streaming<WriteContentResponse>,
}

impl Write {
    pub(crate) async fn open(mut client: ContentClient<Channel>, metadata: &[(&'static str, &str)]) -> Self {
        let (requests, receiver) = mpsc::channel(1);
        let request = with(ReceiverStream::new(receiver), metadata);
        Self { requests: Some(requests), answers: client.write(request).await.unwrap().into_inner() }
    }

    /// Sends a message and waits for its answer.
    pub(crate) async fn exchange(&mut self, request: WriteContentRequest) -> Result<WriteContentResponse, Status> {
        // Where the stream has ended, the answer says why.
        let _ = self.requests.as_ref().unwrap().send(request).await;
        self.answers.message().await.map(|answer| answer.expect("the stream ended without a status"))
    }

    /// Half-closes, and waits for the end.
    pub(crate) async fn close(mut self) {
        self.requests = None;
        assert!(self.answers.message().await.unwrap().is_none());
    }
}

/// A message with metadata.
pub(crate) fn with<T>(message: T, metadata: &[(&'static str, &str)]) -> Request<T> {
    let mut request = Request::new(message);
    for (key, value) in metadata {
        request.metadata_mut().append(*key, value.parse().unwrap());
    }
    request
}

pub(crate) fn stat(reference: &str, total: i64, expected: &str) -> WriteContentRequest {
    let (r#ref, expected) = (reference.to_owned(), expected.to_owned());
    WriteContentRequest { action: WriteAction::Stat as i32, r#ref, total, expected, ..Default::default() }
}

pub(crate) fn write(offset: i64, data: &[u8]) -> WriteContentRequest {
    WriteContentRequest { action: WriteAction::Write as i32, offset, data: data.to_vec().into(), ..Default::default() }
}

/// Commits at `total`, which is the offset too.
pub(crate) fn commit(reference: &str, total: i64, expected: &str) -> WriteContentRequest {
    WriteContentRequest { action: WriteAction::Commit as i32, offset: total, ..stat(reference, total, expected) }
}
