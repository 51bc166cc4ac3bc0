//! The admin endpoint, for operators and orchestrators, on its own listener:
//!
//! - `/livez`: 200 while the process runs
//! - `/readyz`: 200 when builds can be served, else 503; the checks and the causes of failed ones, as JSON. A store that
//!   does not answer is reported there, but makes it 503 only where builds get the error (`on_unavailable = "fail"`)
//! - `/metrics`: Prometheus (OpenMetrics text)
//! - `/status`: what is running and what is waiting, as JSON, for `remora status`
//! - `/`: this list

mod readiness;
mod status;

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::IntoResponse;
use axum::routing::get;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;

use crate::cache::Cache;
use crate::endpoints::{Listener, accept_loop};
use crate::metrics::Metrics;
use crate::shutdown::Shutdown;

use status::StatusSource;

pub use readiness::{Check, CheckReport, Fault, Readiness, Report};
pub use status::{Status, StoreStatus};

/// Health checks and scrapers need only a few.
const MAX_CONNECTIONS: usize = 64;
/// A caller that has not sent a whole request after this time is disconnected.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const INDEX: &str = "\
/livez    200 while the process runs
/readyz   200 when builds can be served, else 503, with the cause
/metrics  Prometheus
/status   what goes on and what waits
";

/// The admin endpoint.
#[derive(Debug)]
pub struct Admin {
    router: Router,
}

impl Admin {
    /// Serves `readiness`, `metrics`, and the status of `cache`.
    #[must_use]
    pub fn new(readiness: Readiness, metrics: Metrics, cache: Cache) -> Self {
        let source = StatusSource { cache, metrics: metrics.clone(), started: Instant::now() };
        let router = Router::new()
            .route("/", get(|| async { INDEX }))
            .route("/livez", get(|| async { "ok\n" }))
            .route("/readyz", get(readyz).with_state(Arc::new(readiness)))
            .route("/metrics", get(scrape).with_state(metrics))
            .route("/status", get(status).with_state(source));
        Self { router }
    }

    /// Serves until `shutdown`. The admin endpoint has a shutdown of its own, so that health checks are answered
    /// while everything else drains.
    pub async fn serve(self: Arc<Self>, listener: Listener, shutdown: Shutdown) {
        accept_loop(listener, shutdown, MAX_CONNECTIONS, |connection, _| {
            let service = TowerToHyperService::new(self.router.clone());
            async move {
                let mut server = hyper::server::conn::http1::Builder::new();
                server.timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
                if let Err(error) = server.serve_connection(TokioIo::new(connection), service).await {
                    tracing::debug!(%error, "an admin connection broke");
                }
            }
        })
        .await;
    }
}

async fn readyz(State(readiness): State<Arc<Readiness>>) -> impl IntoResponse {
    let report = readiness.report().await;
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    let body = serde_json::to_string(&*report).unwrap_or_default();
    (status, [(header::CONTENT_TYPE, "application/json")], body)
}

async fn status(State(source): State<StatusSource>) -> impl IntoResponse {
    let body = serde_json::to_string(&source.status()).unwrap_or_default();
    ([(header::CONTENT_TYPE, "application/json")], body)
}

async fn scrape(State(metrics): State<Metrics>) -> impl IntoResponse {
    ([(header::CONTENT_TYPE, OPENMETRICS)], metrics.encode())
}
