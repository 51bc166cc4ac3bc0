//! The s3 endpoint: the part of the S3 API that BuildKit's `type=s3` and ordinary S3 tools use.
//!
//! s3s parses requests, checks signatures (Signature Version 4) and prints XML. The files here turn each operation into
//! calls of the cache. An access key stands for a grant of the [`Keyring`]. Only HTTP/1.1 is served: no S3 client uses
//! HTTP/2 without TLS. `GET /.remora/probe/<nonce>` is unsigned and answers with the nonce: that is how the control endpoint
//! finds out whether buildkitd reaches this endpoint.

mod auth;
mod bucket;
mod checksum;
mod condition;
mod dispatch;
mod host;
mod multipart;
mod object;
mod operations;
mod probe;
mod request_body;
mod status;
mod target;
mod unread;

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use s3s::service::{S3Service, S3ServiceBuilder};
use s3s::{HttpError, HttpResponse};

use crate::auth::Keyring;
use crate::cache::Cache;
use crate::metrics::{Endpoint, Metrics};
use crate::shutdown::Shutdown;

use super::{Activity, Connection, Listener, accept_loop};

/// How long a connection may wait for a request's headers, and so how long it may be idle. buildkitd makes an S3 client for
/// each build and leaves its connections open for 90 s after the build (the default of the AWS SDK for Go), so the server
/// has to close them. Amazon S3 also closes idle connections after some seconds, and S3 clients connect again.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// How strict the endpoint is.
#[derive(Debug, Clone)]
pub struct Config {
    /// How far a request's date may differ from this machine's clock. Whole seconds.
    pub clock_skew: Duration,
    /// How many connections each listener serves at once. More have to wait.
    pub max_connections: usize,
}

/// The s3 endpoint.
#[derive(Debug)]
pub struct S3 {
    operations: operations::Operations,
    keyring: Keyring,
    config: Config,
    metrics: Metrics,
    path_style: S3Service,
}

impl S3 {
    /// An endpoint that serves `cache` to the holders of the keys in `keyring`.
    #[must_use]
    pub fn new(cache: Cache, keyring: Keyring, config: Config, metrics: Metrics) -> Self {
        let operations = operations::Operations::new(cache, metrics.clone());
        let path_style = builder(&operations, &keyring, &config).build();
        Self { operations, keyring, config, metrics, path_style }
    }

    /// Serves until the endpoints close; requests in flight are finished by tasks of `shutdown`.
    pub async fn serve(self: Arc<Self>, listener: Listener, shutdown: Shutdown) {
        let max_connections = self.config.max_connections;
        let serve = move |connection, activity| Arc::clone(&self).serve_connection(connection, activity);
        accept_loop(listener, shutdown, max_connections, serve).await;
    }

    async fn serve_connection(self: Arc<Self>, connection: Connection, activity: Activity) {
        let peer = connection.to_string();
        let service = {
            let activity = activity.clone();
            service_fn(move |mut request: http::Request<hyper::body::Incoming>| {
                let s3 = Arc::clone(&self);
                let running = activity.begin();
                request.extensions_mut().insert(activity.clone());
                async move { s3.answer(request).await.map(|response| running.answered(response)) }
            })
        };
        let mut server = http1::Builder::new();
        let server = server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
        let mut serving = pin!(server.serve_connection(TokioIo::new(connection), service));
        let ended = tokio::select! {
            ended = serving.as_mut() => ended,
            () = activity.is_over() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(peer, %error, "an s3 connection broke off");
        }
    }

    async fn answer(&self, request: http::Request<hyper::body::Incoming>) -> Result<HttpResponse, HttpError> {
        let operation = operations::OperationName::default();
        let unread = unread::Unread::default();
        let mut request = request.map(|body| unread.track(body));
        let mut response = if let Some(nonce) = probe::nonce(&request) {
            operation.set("Probe");
            probe::answer(nonce)
        } else if let Err(refused) = auth::check_form(&request) {
            // Dropping the request hands its unread body to `unread`, which is drained below. In the branch after this one
            // s3s drops it.
            drop(request);
            refused.to_http_response().map_err(|error| HttpError::new(Box::new(error)))?
        } else {
            request.extensions_mut().insert(operation.clone());
            self.service(&request).call(request_body::past_s3s(request)).await?
        };
        if !unread.drain().await {
            response.headers_mut().insert(http::header::CONNECTION, http::HeaderValue::from_static("close"));
        }
        self.metrics.request(Endpoint::S3, operation.get(), status::class(response.status()));
        Ok(response)
    }

    /// What answers this request: its bucket is in the path, or in the host name.
    fn service<B>(&self, request: &http::Request<B>) -> S3Service {
        match host::virtual_bucket(request, &self.keyring) {
            None => self.path_style.clone(),
            Some(bucket) => {
                let mut builder = builder(&self.operations, &self.keyring, &self.config);
                builder.set_host(host::VirtualBucket(bucket));
                builder.build()
            }
        }
    }
}

fn builder(operations: &operations::Operations, keyring: &Keyring, config: &Config) -> S3ServiceBuilder {
    let mut builder = S3ServiceBuilder::new(operations.clone());
    builder.set_auth(auth::Signatures(keyring.clone()));
    builder.set_access(auth::Access(keyring.clone()));
    builder.set_validation(host::BucketNames);
    let mut limits = s3s::config::S3Config::default();
    // The name says presigned URLs, but s3s also checks the date of signed headers with it.
    limits.presigned_url_max_skew_time_secs = u32::try_from(config.clock_skew.as_secs()).unwrap_or(u32::MAX);
    builder.set_config(Arc::new(s3s::config::StaticConfigProvider::new(Arc::new(limits))));
    builder
}
