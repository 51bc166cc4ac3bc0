//! The calls that carry cache options: read whole, rewritten where they name a `type=s3` cache, sent on.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, Request, Response, header};
use hyper::body::Incoming;
use tokio::time::Instant;
use tonic::Status;

use super::body::{RequestBody, ResponseBody};
use super::builds::Build;
use super::call::Call;
use super::forward::{forward, read_whole, refuse};
use super::message;
use super::rewrite::{self, Entry, Solve};
use super::route::Route;
use super::upstream::Upstream;
use super::wire::Malformed;
use super::{Control, attrs, relay};
use crate::auth::Purpose;

/// How long a call is held back for its cache at the most. buildkitd gives a build's other calls 3 s (of
/// the gateway) or 6 s (`Status`) until its `Control/Solve` is there, then fails them with "no such job".
const HELD_BACK: Duration = Duration::from_millis(2500);
/// The metadata in which gateway calls name their build (`client/buildid` of BuildKit v0.33).
const BUILD_ID: &str = "buildkit-controlapi-buildid";

impl Control {
    /// Serves a call that may carry cache options.
    pub(super) async fn solve(
        &self,
        upstream: &Arc<Upstream>,
        request: Request<Incoming>,
        solve: Solve,
        call: Call,
    ) -> Result<Response<ResponseBody>, hyper::Error> {
        let (mut head, unary, mut call) = match read_whole(request, self.config.max_message_bytes, call).await {
            Ok(read) => read,
            Err(ended) => return ended,
        };
        let build = match self.build_of(&head.headers, &unary.message, solve, &mut call) {
            Ok(build) => build,
            Err(malformed) => return Ok(refuse(call, Status::invalid_argument(format!("{}: {malformed}", head.uri.path())))),
        };
        let patched = match self.patch(&unary.message, solve, build.as_deref()).await {
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
        let response = forward(upstream, request, self.config.connect_timeout, call).await?;
        match build.filter(|_| solve == Solve::Build) {
            Some(build) => Ok(self.publish(&build, response).await),
            None => Ok(response),
        }
    }

    /// The build that a call begins or belongs to.
    fn build_of(&self, headers: &HeaderMap, message: &[u8], solve: Solve, call: &mut Call) -> Result<Option<Arc<Build>>, Malformed> {
        Ok(match solve {
            Solve::Build => {
                let build = self.builds.begin(&rewrite::reference(message)?, &rewrite::session(message)?);
                call.is_build(Arc::clone(&build));
                Some(build)
            }
            Solve::Gateway => headers.get(BUILD_ID).and_then(|id| self.builds.find(id.to_str().ok()?)),
        })
    }

    /// The message with its s3 entries rewritten, or `None` where it has none.
    async fn patch(&self, message: &[u8], solve: Solve, build: Option<&Build>) -> Result<Option<Vec<u8>>, rewrite::Error> {
        let mut given = Vec::new();
        solve.rewrite(message, |purpose, attrs| {
            given.push((purpose, attrs.clone()));
            None
        })?;
        if given.is_empty() {
            return Ok(None);
        }
        if build.is_none() {
            // buildkitd knows no such build either. Whatever happens next, it happens without a cache.
            tracing::warn!("a gateway call of a build that does not run here: its s3 cache is left out");
        }
        let deadline = Instant::now() + HELD_BACK;
        let mut decided = Vec::new();
        for (purpose, attrs) in given {
            let target = attrs::Target::read(&attrs, purpose, self.cache.stores())?;
            let entry = match build {
                Some(build) => {
                    let entry = tokio::time::timeout_at(deadline, self.entry(build, purpose, &attrs, &target));
                    entry.await.unwrap_or_else(|_| {
                        tracing::warn!(build.ref = build.reference(), "an s3 cache entry is left out: what it needs took longer than {HELD_BACK:?}");
                        None
                    })
                }
                None => None,
            };
            decided.push((target, entry));
        }
        let mut entries = decided.iter().map(|(_, entry)| entry.clone());
        let rewritten = solve.rewrite(message, |_, _| entries.next().flatten())?;
        if let (Some(build), Some(rewritten)) = (build, &rewritten) {
            self.progress.name_entries(build, &decided, rewritten)?;
        }
        Ok(rewritten)
    }

    /// What an entry becomes on the way that the build's cache goes.
    async fn entry(&self, build: &Build, purpose: Purpose, attrs: &attrs::Attrs, target: &attrs::Target) -> Option<Entry> {
        match build.route(Box::pin(self.choose_route(build.reference()))).await {
            Route::Relay(url) => Some(relay::rewrite(attrs, target, url, &build.grant(purpose, target)?)),
            Route::Session if self.sessions.joined(build.session()).await => Box::pin(self.localized(build, purpose, attrs, target)).await,
            Route::Session => {
                tracing::warn!(build.ref = build.reference(), "an s3 cache entry is left out: the build's session began before it was needed");
                None
            }
        }
    }
}
