//! The calls that carry cache options: read whole, rewritten where they name a `type=s3` cache, sent on.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::request::Parts;
use http::{HeaderMap, Request, Response, header};
use hyper::body::Incoming;
use tokio::time::Instant;
use tonic::Status;

use crate::auth::Purpose;
use crate::endpoints::control::builds::build::Build;
use crate::endpoints::control::grpc::message;
use crate::endpoints::control::grpc::wire::Malformed;
use crate::endpoints::control::options::attrs;
use crate::endpoints::control::options::rewrite;
use crate::endpoints::control::options::rewrite::{Entry, Solve};
use crate::endpoints::control::proxy::body::{RequestBody, ResponseBody};
use crate::endpoints::control::proxy::call::Call;
use crate::endpoints::control::proxy::forward::{forward, read_whole, refuse};
use crate::endpoints::control::replay::recording::{Asked, Outputs};
use crate::endpoints::control::replay::runner::BUILD_ID;
use crate::endpoints::control::transports::relay;
use crate::endpoints::control::transports::route::Route;
use crate::endpoints::control::{Client, Control};

/// How long a call is held back for its cache at the most. buildkitd gives a build's other calls 3 s (of
/// the gateway) or 6 s (`Status`) until its `Control/Solve` is there, then fails them with "no such job".
const HELD_BACK: Duration = Duration::from_millis(2500);

/// Why a build does not begin.
#[derive(Debug)]
enum Unbegun {
    Malformed(Malformed),
    /// remora takes no new builds.
    Refused(Status),
}

impl From<Malformed> for Unbegun {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// A message with its s3 entries rewritten. `None`: it stays as it is.
#[derive(Debug, Default)]
struct Patched {
    cached: Option<Vec<u8>>,
    /// The same without the imports; `None` where there are none.
    uncached: Option<Vec<u8>>,
}

impl Client {
    /// Serves a call that may carry cache options.
    pub(crate) async fn solve(&self, request: Request<Incoming>, solve: Solve, call: Call) -> Result<Response<ResponseBody>, hyper::Error> {
        let (control, upstream) = (&self.control, &self.upstream);
        let (mut head, unary, mut call) = match read_whole(request, control.config.max_message_bytes, call).await {
            Ok(read) => read,
            Err(ended) => return ended,
        };
        let build = match self.build_of(&head.headers, &unary.message, solve, &mut call) {
            Ok(build) => build,
            Err(Unbegun::Malformed(malformed)) => {
                return Ok(refuse(call, Status::invalid_argument(format!("{}: {malformed}", head.uri.path()))));
            }
            Err(Unbegun::Refused(refusal)) => return Ok(refuse(call, refusal)),
        };
        let patched = match control.patch(&unary.message, solve, build.as_deref()).await {
            Ok(patched) => patched,
            Err(problem) => {
                let status = Status::invalid_argument(match problem {
                    rewrite::Error::Refused(refusal) => refusal.to_string(),
                    malformed => format!("{}: {malformed}", head.uri.path()),
                });
                return Ok(refuse(call, status));
            }
        };
        let asked = build.as_deref().and_then(|build| Control::note(build, solve, &unary.message, patched.uncached, &head));
        let body = match patched.cached.as_deref().map(message::frame) {
            None => unary.frame,
            Some(Some(frame)) => {
                head.headers.remove(header::CONTENT_LENGTH);
                frame
            }
            Some(None) => return Ok(refuse(call, Status::resource_exhausted("message over 4 GiB"))),
        };
        drop(unary.message);
        let admitted = call.admitted();
        let request = Request::from_parts(head, RequestBody::Whole(body));
        let response = forward(upstream, request, control.config.connect_timeout, call).await?;
        Ok(match (solve, build, asked) {
            (Solve::Build, Some(build), _) => {
                let response = control.outlive(upstream, &build, response, admitted).await;
                control.publish(&build, response).await
            }
            (_, Some(build), Some(asked)) => control.record(&build, asked, response).await,
            _ => response,
        })
    }

    /// The build that a call begins or belongs to.
    fn build_of(&self, headers: &HeaderMap, message: &[u8], solve: Solve, call: &mut Call) -> Result<Option<Arc<Build>>, Unbegun> {
        Ok(match solve {
            Solve::Build => {
                let (reference, session) = (rewrite::reference(message)?, rewrite::session(message)?);
                call.is_admitted(self.control.admission.admit(&session, &self.arrival).map_err(Unbegun::Refused)?);
                let build = self.control.builds.begin(&reference, &session);
                call.is_build(Arc::clone(&build));
                Some(build)
            }
            Solve::Gateway | Solve::Return => self.control.build_in(headers),
        })
    }
}

impl Control {
    /// Notes a call by its build, where that may have to be run again. What is to be noted with its answer is
    /// returned.
    fn note(build: &Build, solve: Solve, message: &Bytes, uncached: Option<Vec<u8>>, head: &Parts) -> Option<Asked> {
        let replay = build.replay();
        // Without an import there is nothing that a second run would do without.
        if solve == Solve::Build {
            if let (Some(uncached), Ok(outputs)) = (uncached, Outputs::of(message)) {
                replay.begin(Asked::new(head, uncached.into()), outputs);
            }
            return None;
        }
        if !replay.is_possible() {
            return None;
        }
        let asked = Asked::new(head, uncached.map_or_else(|| message.clone(), Bytes::from));
        match solve {
            Solve::Gateway => return replay.keep(asked),
            // The client gave up.
            _ if rewrite::is_failure(message) => replay.give_up(),
            // Its answer says nothing, and the build may be over before that is here.
            _ => replay.add(asked),
        }
        None
    }

    /// The running build that a gateway call belongs to.
    pub(crate) fn build_in(&self, headers: &HeaderMap) -> Option<Arc<Build>> {
        self.builds.find(headers.get(BUILD_ID)?.to_str().ok()?)
    }

    /// The message with its s3 entries rewritten.
    async fn patch(&self, message: &[u8], solve: Solve, build: Option<&Build>) -> Result<Patched, rewrite::Error> {
        let mut given = Vec::new();
        solve.rewrite(message, |purpose, attrs| {
            given.push((purpose, attrs.clone()));
            None
        })?;
        if given.is_empty() {
            return Ok(Patched::default());
        }
        if build.is_none() {
            // buildkitd knows no such build either. Whatever happens next, it happens without a cache.
            tracing::warn!("a gateway call of a build that does not run here: its s3 cache is left out");
        }
        let deadline = Instant::now() + HELD_BACK;
        let (mut decided, mut imports) = (Vec::new(), false);
        for (purpose, attrs) in given {
            let target = attrs::Target::read(&attrs, purpose, self.cache.stores(), self.config.durability)?;
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
            imports |= purpose == Purpose::Import;
            decided.push((target, entry));
        }
        let mut entries = decided.iter().map(|(_, entry)| entry.clone());
        let cached = solve.rewrite(message, |_, _| entries.next().flatten())?;
        if let (Some(build), Some(cached)) = (build, &cached) {
            self.progress.name_entries(build, &decided, cached)?;
        }
        let mut entries = decided.into_iter().map(|(_, entry)| entry);
        let uncached = solve.rewrite(message, |purpose, _| entries.next().flatten().filter(|_| purpose == Purpose::Export));
        Ok(Patched { cached, uncached: if imports { uncached? } else { None } })
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
