//! One call from its first byte to its last: what is counted and logged when it is over.

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use tonic::Code;

use crate::endpoints::control::admission::Admitted;
use crate::endpoints::control::builds::build::Build;
use crate::endpoints::control::grpc::status;
use crate::metrics::{Class, Endpoint, Metrics};

/// The methods that get a name of their own in the metrics.
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

/// Counts and logs its call when dropped, and ends the build that it was.
#[derive(Debug)]
pub(crate) struct Call {
    path: String,
    started: Instant,
    code: Option<Code>,
    metrics: Metrics,
    build: Option<Arc<Build>>,
    admitted: Option<Admitted>,
}

impl Call {
    /// A call begins.
    pub(crate) fn begin(path: &str, metrics: Metrics) -> Self {
        Self { path: path.to_owned(), started: Instant::now(), code: None, metrics, build: None, admitted: None }
    }

    /// The call is one of those that make a build: the endpoints stay open for it.
    pub(crate) fn is_admitted(&mut self, admitted: Admitted) {
        self.admitted = Some(admitted);
    }

    /// The call is this build: the build ends with it.
    pub(crate) fn is_build(&mut self, build: Arc<Build>) {
        self.build = Some(build);
    }

    /// What the endpoints stay open for, for a call that takes its place.
    pub(crate) fn admitted(&self) -> Option<Admitted> {
        self.admitted.clone()
    }

    /// Takes the status out of headers or trailers, where there is one.
    pub(crate) fn saw(&mut self, headers: &HeaderMap) {
        if let Some(code) = status::code(headers) {
            self.code = Some(code);
        }
    }

    /// The call ends with this code.
    pub(crate) fn ends_with(&mut self, code: Code) {
        self.code = Some(code);
    }

    /// Whether it is known how the call ends.
    pub(crate) fn has_ended(&self) -> bool {
        self.code.is_some()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        // Nobody was left to tell the status to.
        let code = self.code.unwrap_or(Code::Cancelled);
        let class: Class = status::class(code);
        self.metrics.request(Endpoint::Control, operation(&self.path), class);
        tracing::debug!(grpc.method = %self.path, grpc.status = ?code, duration_ms = self.started.elapsed().as_millis(), "call ended");
        if let Some(build) = &self.build {
            build.ends_with(code);
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
