//! One call, from its first byte to its last, and what is counted and logged when it is over.

use std::fmt;
use std::time::Instant;

use http::HeaderMap;
use tonic::Code;

use crate::endpoints::control::grpc::status;
use crate::metrics::{Class, Endpoint, Metrics};

/// The methods that have a name of their own in the metrics.
const KNOWN: [&str; 32] = [
    "/moby.buildkit.v1.Control/DiskUsage",
    "/moby.buildkit.v1.Control/Prune",
    "/moby.buildkit.v1.Control/Solve",
    "/moby.buildkit.v1.Control/Status",
    "/moby.buildkit.v1.Control/Session",
    "/moby.buildkit.v1.Control/ListWorkers",
    "/moby.buildkit.v1.Control/Info",
    "/moby.buildkit.v1.Control/ListenBuildHistory",
    "/moby.buildkit.v1.Control/UpdateBuildHistory",
    "/moby.buildkit.v1.frontend.LLBBridge/ResolveImageConfig",
    "/moby.buildkit.v1.frontend.LLBBridge/ResolveSourceMeta",
    "/moby.buildkit.v1.frontend.LLBBridge/Solve",
    "/moby.buildkit.v1.frontend.LLBBridge/ReadFile",
    "/moby.buildkit.v1.frontend.LLBBridge/ReadDir",
    "/moby.buildkit.v1.frontend.LLBBridge/StatFile",
    "/moby.buildkit.v1.frontend.LLBBridge/Evaluate",
    "/moby.buildkit.v1.frontend.LLBBridge/Ping",
    "/moby.buildkit.v1.frontend.LLBBridge/Return",
    "/moby.buildkit.v1.frontend.LLBBridge/Inputs",
    "/moby.buildkit.v1.frontend.LLBBridge/NewContainer",
    "/moby.buildkit.v1.frontend.LLBBridge/ReleaseContainer",
    "/moby.buildkit.v1.frontend.LLBBridge/ExecProcess",
    "/moby.buildkit.v1.frontend.LLBBridge/Warn",
    "/containerd.services.content.v1.Content/Info",
    "/containerd.services.content.v1.Content/List",
    "/containerd.services.content.v1.Content/Read",
    "/containerd.services.content.v1.Content/Status",
    "/containerd.services.content.v1.Content/ListStatuses",
    "/opentelemetry.proto.collector.trace.v1.TraceService/Export",
    "/grpc.health.v1.Health/Check",
    "/grpc.health.v1.Health/Watch",
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
];

/// Counts and logs its call when dropped, and tells whoever wants to know how it ended.
pub(crate) struct Call {
    path: String,
    started: Instant,
    code: Option<Code>,
    metrics: Metrics,
    on_end: Option<Box<dyn FnOnce(Code) + Send>>,
}

impl fmt::Debug for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Call").field("path", &self.path).field("code", &self.code).finish_non_exhaustive()
    }
}

impl Call {
    /// A call begins.
    pub(super) fn begin(path: &str, metrics: Metrics) -> Self {
        Self { path: path.to_owned(), started: Instant::now(), code: None, metrics, on_end: None }
    }

    /// Has `on_end` called with the call's code when the call is over. What `on_end` owns lives until then.
    pub(crate) fn on_end(&mut self, on_end: impl FnOnce(Code) + Send + 'static) {
        self.on_end = Some(Box::new(on_end));
    }

    /// Takes the code out of headers or trailers, where there is one.
    pub(super) fn record_code_in(&mut self, headers: &HeaderMap) {
        if let Some(code) = status::code(headers) {
            self.code = Some(code);
        }
    }

    /// The call ends with this code.
    pub(super) fn record_code(&mut self, code: Code) {
        self.code = Some(code);
    }

    /// Whether it is known how the call ends.
    pub(crate) fn has_code(&self) -> bool {
        self.code.is_some()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // A call without a code was dropped before its end: the caller has gone.
        let code = self.code.unwrap_or(Code::Cancelled);
        let class: Class = status::class(code);
        self.metrics.request(Endpoint::Control, operation(&self.path), class);
        tracing::debug!(grpc.method = %self.path, grpc.status = ?code, duration_ms = self.started.elapsed().as_millis(), "call ended");
        if let Some(on_end) = self.on_end.take() {
            on_end(code);
        }
    }
}

/// `Control/Solve` of `/moby.buildkit.v1.Control/Solve`.
fn operation(path: &str) -> &'static str {
    let known = KNOWN.iter().find(|known| **known == path);
    known.map_or("other", |known| known.rsplit_once('.').map_or(known, |(_, operation)| operation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_are_a_closed_set() {
        assert_eq!(operation("/moby.buildkit.v1.Control/Solve"), "Control/Solve");
        assert_eq!(operation("/moby.buildkit.v1.frontend.LLBBridge/Solve"), "LLBBridge/Solve");
        assert_eq!(operation("/made.up/Method"), "other");
    }
}
