//! The content endpoint: remora's gRPC API.
//!
//! `containerd.services.content.v1.Content` and `remora.cache.v1.Manifests`, with `grpc.health.v1` and
//! reflection beside them. The metadata of a call says which cache it is about (`scope`); with a token
//! configured, every call but a health check must carry it.

mod calls;
mod filters;
mod kept_read;
mod manifests;
mod read;
mod scope;
mod service;
mod status;
mod write;

use std::convert::Infallible;
use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use secrecy::{ExposeSecret, SecretString};
use tonic::server::NamedService;
use tonic::service::Routes;
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_reflection::server::Builder as Reflection;
use tower::ServiceExt as _;

use super::{Activity, Connection, Listener, accept_loop};
use crate::cache::Cache;
use crate::metrics::Metrics;
use crate::proto;
use crate::proto::cache::manifests_server::ManifestsServer;
use crate::proto::content::content_server::ContentServer;
use crate::shutdown::Shutdown;
use crate::types::Digest;
use calls::Calls;

/// The largest message that containerd's own client and server send and take (`defaults`, v2.4).
const MAX_MESSAGE_BYTES: usize = 16 << 20;
/// What a manifest's message has beside the document.
const ENVELOPE_BYTES: usize = 64 << 10;
/// Bytes that a client may send before they are taken, for a stream and for a connection.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
/// A peer that vanished must not hold a ref for good.
const PING_INTERVAL: Duration = Duration::from_secs(30);
const PING_TIMEOUT: Duration = Duration::from_secs(20);
/// Calls without a token: health checks have none.
const HEALTH_PATH: &str = "/grpc.health.v1.Health/";

/// How the endpoint is to behave.
#[derive(Debug)]
pub struct Config {
    /// Where set, what every call must carry as `authorization: Bearer TOKEN`.
    pub token: Option<SecretString>,
    /// Connections at once; more wait.
    pub max_connections: usize,
    /// Calls at once on one of them; more wait.
    pub max_streams: u32,
}

/// The content endpoint.
pub struct Content {
    calls: Calls,
    /// The token's digest: comparing digests takes the same time whatever the caller sent.
    token: Option<Digest>,
    max_connections: usize,
    max_streams: u32,
}

impl fmt::Debug for Content {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Content").field("max_connections", &self.max_connections).finish_non_exhaustive()
    }
}

impl Content {
    /// The endpoint over `cache`.
    #[must_use]
    pub fn new(cache: Cache, config: Config, metrics: Metrics) -> Self {
        let token = config.token.map(|token| Digest::of(token.expose_secret().as_bytes()));
        let Config { max_connections, max_streams, .. } = config;
        Self { calls: Calls::new(cache, metrics), token, max_connections, max_streams }
    }

    /// The content service alone, for calls that bring a [`Grant`](crate::types::Grant) in their
    /// request's extensions: those that come through a build's session. Each session is served by one of its
    /// own, and what it keeps open ends with it.
    #[must_use]
    pub fn for_sessions(&self) -> Arc<dyn Fn() -> Routes + Send + Sync> {
        let calls = self.calls.clone();
        Arc::new(move || {
            let service = service::Service(calls.for_session());
            Routes::new(ContentServer::new(service).max_decoding_message_size(MAX_MESSAGE_BYTES)).prepare()
        })
    }

    /// Serves until the endpoints close; calls in flight then finish.
    pub async fn serve(self: Arc<Self>, listener: Listener, shutdown: Shutdown) {
        let (mut reporter, health) = tonic_health::server::health_reporter();
        let names = ["", content_name(), manifests_name()];
        for name in names {
            reporter.set_service_status(name, ServingStatus::Serving).await;
        }
        let routes = match self.routes(health) {
            Ok(routes) => routes,
            Err(error) => {
                tracing::error!(%error, "the content endpoint cannot start: its descriptors are broken");
                return;
            }
        };
        let serve = |connection, activity| Arc::clone(&self).serve_connection(connection, activity, routes.clone(), shutdown.clone());
        let unhealthy = async {
            shutdown.draining().await;
            for name in names {
                reporter.set_service_status(name, ServingStatus::NotServing).await;
            }
        };
        tokio::join!(accept_loop(listener, shutdown.clone(), self.max_connections, serve), unhealthy);
        // A watcher gets the end of its stream: it would hold up the end.
        for name in names {
            reporter.clear_service_status(name).await;
        }
    }

    fn routes<H: tonic_health::pb::health_server::Health>(
        &self,
        health: tonic_health::pb::health_server::HealthServer<H>,
    ) -> Result<Routes, tonic_reflection::server::Error> {
        let reflection = || {
            Reflection::configure()
                .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
                .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
                .with_service_name(content_name())
                .with_service_name(manifests_name())
                .with_service_name("grpc.health.v1.Health")
                .with_service_name("grpc.reflection.v1.ServerReflection")
                .with_service_name("grpc.reflection.v1alpha.ServerReflection")
        };
        let max_manifest = usize::try_from(self.calls.cache().settings().max_manifest_bytes).unwrap_or(usize::MAX);
        Ok(Routes::new(ContentServer::new(service::Service(self.calls.clone())).max_decoding_message_size(MAX_MESSAGE_BYTES))
            .add_service(
                ManifestsServer::new(manifests::Service(self.calls.clone()))
                    .max_decoding_message_size(max_manifest.saturating_add(ENVELOPE_BYTES)),
            )
            .add_service(health)
            .add_service(reflection().build_v1()?)
            .add_service(reflection().build_v1alpha()?)
            .prepare())
    }

    async fn serve_connection(self: Arc<Self>, connection: Connection, activity: Activity, routes: Routes, shutdown: Shutdown) {
        let peer = connection.to_string();
        let service = service_fn(|request| {
            let (running, answer) = (activity.begin(), self.answer(request, routes.clone()));
            async move { answer.await.map(|response| running.answered(response)) }
        });
        let mut http = hyper::server::conn::http2::Builder::new(shutdown);
        http.timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_concurrent_streams(self.max_streams)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT);
        let mut serving = pin!(http.serve_connection(TokioIo::new(connection), service));
        let ended = tokio::select! {
            ended = serving.as_mut() => ended,
            () = activity.is_over() => {
                serving.as_mut().graceful_shutdown();
                serving.await
            }
        };
        if let Err(error) = ended {
            tracing::debug!(peer, %error, "a connection to the content endpoint broke");
        }
    }

    fn answer(
        &self,
        request: http::Request<Incoming>,
        routes: Routes,
    ) -> impl Future<Output = Result<http::Response<tonic::body::Body>, Infallible>> + Send + use<> {
        let admitted = self.admits(&request);
        async move {
            if !admitted {
                return Ok(Status::unauthenticated("this endpoint wants its token: authorization: Bearer TOKEN").into_http());
            }
            let response = routes.oneshot(request).await?;
            Ok(match response.extensions().get::<Status>() {
                Some(status) => name_the_bound(status).map_or(response, Status::into_http),
                None => response,
            })
        }
    }

    fn admits<B>(&self, request: &http::Request<B>) -> bool {
        let Some(token) = &self.token else { return true };
        if request.uri().path().starts_with(HEALTH_PATH) {
            return true;
        }
        let given = request.headers().get(http::header::AUTHORIZATION).and_then(|value| value.to_str().ok());
        let bearer = given.and_then(|value| value.split_once(' ')).filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"));
        bearer.is_some_and(|(_, given)| Digest::of(given.as_bytes()) == *token)
    }
}

/// gRPC's status for a message above the bound is `RESOURCE_EXHAUSTED`; tonic says `OUT_OF_RANGE`.
fn name_the_bound(status: &Status) -> Option<Status> {
    (status.code() == Code::OutOfRange && status.message().contains("message length too large"))
        .then(|| Status::resource_exhausted(status.message()))
}

fn content_name() -> &'static str {
    <ContentServer<service::Service> as NamedService>::NAME
}

fn manifests_name() -> &'static str {
    <ManifestsServer<manifests::Service> as NamedService>::NAME
}
