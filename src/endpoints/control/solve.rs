//! The calls that carry cache options: read whole, rewritten where they name a `type=s3` cache, sent on.

use std::sync::Arc;

use http::{HeaderMap, Request, Response, header};
use hyper::body::Incoming;
use tonic::Status;

use super::builds::Build;
use super::call::Call;
use super::forward::{RequestBody, ResponseBody, forward, refuse};
use super::message::{self, ReadError, Unary};
use super::rewrite::{self, Solve};
use super::route::Route;
use super::upstream::Upstream;
use super::{Control, attrs, relay};

/// The metadata in which gateway calls name their build (`client/buildid` of BuildKit v0.33).
const BUILD_ID: &str = "buildkit-controlapi-buildid";

impl Control {
    /// Serves a call that may carry cache options.
    pub(super) async fn solve(
        &self,
        upstream: &Arc<Upstream>,
        request: Request<Incoming>,
        solve: Solve,
        mut call: Call,
    ) -> Result<Response<ResponseBody>, hyper::Error> {
        let (mut head, body) = request.into_parts();
        let unary = match Unary::read(&head.headers, body, self.config.max_message_bytes).await {
            Ok(unary) => unary,
            Err(ReadError::Refused(status)) => return Ok(refuse(call, status)),
            Err(ReadError::Gone(error)) => return Err(error),
        };
        let patched = match self.patch(&head.headers, &unary.message, solve, &mut call).await {
            Ok(patched) => patched,
            Err(problem) => {
                let status = Status::invalid_argument(match problem {
                    rewrite::Error::Refused(refusal) => refusal.to_string(),
                    malformed => format!("{}: {malformed}", head.uri.path()),
                });
                return Ok(refuse(call, status));
            }
        };
        let body = match patched.as_deref().map(message::frame) {
            None => unary.frame,
            Some(Some(frame)) => {
                head.headers.remove(header::CONTENT_LENGTH);
                frame
            }
            Some(None) => return Ok(refuse(call, Status::resource_exhausted("message over 4 GiB"))),
        };
        drop(unary.message);
        let request = Request::from_parts(head, RequestBody::Whole(body));
        forward(upstream, request, self.config.connect_timeout, call).await
    }

    /// The message with its s3 entries rewritten, or `None` where it has none.
    async fn patch(&self, headers: &HeaderMap, message: &[u8], solve: Solve, call: &mut Call) -> Result<Option<Vec<u8>>, rewrite::Error> {
        let build = match solve {
            Solve::Build => {
                let build = self.builds.begin(&rewrite::reference(message)?);
                call.is_build(Arc::clone(&build));
                Some(build)
            }
            Solve::Gateway => headers.get(BUILD_ID).and_then(|id| self.builds.find(id.to_str().ok()?)),
        };
        let mut found = false;
        solve.rewrite(message, |_, _| {
            found = true;
            Ok(None)
        })?;
        if !found {
            return Ok(None);
        }
        let way = match &build {
            Some(build) => Some((build, build.route(Box::pin(self.choose_route(build.reference()))).await)),
            None => {
                // buildkitd knows no such build either. Whatever happens next, it happens without a cache.
                tracing::warn!("a gateway call of a build that does not run here: its s3 cache is left out");
                None
            }
        };
        solve.rewrite(message, |purpose, given| {
            let target = attrs::Target::read(given, purpose, &self.stores)?;
            Ok(way.and_then(|(build, route)| rewritten(build, route, purpose, given, &target)))
        })
    }
}

fn rewritten(
    build: &Build,
    route: &Route,
    purpose: crate::auth::Purpose,
    given: &attrs::Attrs,
    target: &attrs::Target,
) -> Option<attrs::Attrs> {
    match route {
        Route::Relay(url) => Some(relay::rewrite(given, target, url, &build.grant(purpose, target)?)),
        Route::Nowhere => None,
    }
}
