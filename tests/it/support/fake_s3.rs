//! An S3 server in this process: s3s-fs on a folder, behind hyper.

use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use remora::shutdown::Shutdown;
use remora::types::BucketName;
use s3s::S3;
use s3s::auth::SimpleAuth;
use s3s::service::S3ServiceBuilder;
use s3s_fs::FileSystem;
use tempfile::TempDir;
use tokio::net::TcpListener;

const ACCESS_KEY: &str = "fake-key";
const SECRET_KEY: &str = "fake-secret";
const BUCKET: &str = "fake-bucket";

/// A running server; dropping it cuts its connections and removes its data.
#[derive(Debug)]
pub struct FakeS3 {
    endpoint: String,
    shutdown: Shutdown,
    /// Only kept so that it lives as long as the server.
    root: Option<TempDir>,
}

impl FakeS3 {
    /// Starts one with an empty bucket.
    pub async fn start() -> Self {
        let root = TempDir::with_prefix("remora-fake-s3-").unwrap();
        std::fs::create_dir(root.path().join(BUCKET)).unwrap();
        let files = FileSystem::new(root.path()).unwrap();
        let mut server = Self::serve(files).await;
        server.root = Some(root);
        server
    }

    /// Serves an S3 of the test's own.
    pub async fn serve(s3: impl S3) -> Self {
        let mut service = S3ServiceBuilder::new(s3);
        service.set_auth(SimpleAuth::from_single(ACCESS_KEY, SECRET_KEY));
        let service = service.build();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let shutdown = Shutdown::default();
        let connections = shutdown.clone();
        shutdown.spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let service = service.clone();
                connections.spawn(async move {
                    let _ = Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { endpoint, shutdown, root: None }
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub fn access_key(&self) -> &'static str {
        ACCESS_KEY
    }

    pub fn secret_key(&self) -> &'static str {
        SECRET_KEY
    }

    pub fn bucket(&self) -> BucketName {
        BUCKET.parse().unwrap()
    }
}

impl Drop for FakeS3 {
    fn drop(&mut self) {
        self.shutdown.stop();
    }
}
