//! The way of a `Solve`, from top to bottom: read, begin the build, find the entries, decide, splice, record, send,
//! and what is done with the answer.

use std::fmt::Display;
use std::sync::Arc;

use http::request::Parts;
use http::{Request, Response};
use hyper::body::Incoming;
use tonic::Status;

use super::Client;
use crate::endpoints::control::builds::Build;
use crate::endpoints::control::grpc::message::{self, Unary};
use crate::endpoints::control::grpc::status;
use crate::endpoints::control::options::{CacheOptions, SolveCall, build_reference, build_session};
use crate::endpoints::control::proxy::{Answered, Call, RequestBody, ResponseBody, UnaryCall, refuse};
use crate::endpoints::control::replay::{FirstRun, RecordedCall};

/// A message with its `type=s3` entries replaced.
#[derive(Debug, Default)]
struct Rewritten {
    /// `None`: the message stays as it is.
    message: Option<Vec<u8>>,
    /// The same without the imports; `None` where there are none.
    without_imports: Option<Vec<u8>>,
}

/// Why a call is not sent to buildkitd.
#[derive(Debug)]
enum Refusal {
    /// It is not what it should be.
    Malformed(String),
    /// It asks for what is not served.
    Invalid(String),
    /// Remora takes no new builds.
    Status(Status),
}

impl Refusal {
    fn malformed(malformed: impl Display) -> Self {
        Self::Malformed(malformed.to_string())
    }

    fn invalid(invalid: impl Display) -> Self {
        Self::Invalid(invalid.to_string())
    }

    /// What the client is told of a call of this path.
    fn status(self, path: &str) -> Status {
        match self {
            Self::Malformed(malformed) => Status::invalid_argument(format!("{path}: {malformed}")),
            Self::Invalid(invalid) => Status::invalid_argument(invalid),
            Self::Status(status) => status,
        }
    }
}

impl Client {
    /// Serves a call that makes a build, or a step of one.
    pub(super) async fn solve(&self, kind: SolveCall, request: Request<Incoming>, call: Call) -> Answered {
        // 1. Read the call whole.
        let UnaryCall { head, unary, mut call } = match self.rooms.proxy.read_call(request, call).await {
            Ok(read) => read,
            Err(ended) => return ended,
        };
        let refused = |refusal: Refusal| refusal.status(head.uri.path());

        // 2. Begin its build, or find the build that it belongs to.
        let build = match kind {
            SolveCall::Build => match self.begin_build(&unary.message, &mut call) {
                Ok(build) => Some(build),
                Err(refusal) => return Ok(refuse(call, refused(refusal))),
            },
            SolveCall::Gateway | SolveCall::Return => self.rooms.builds.of_gateway_call(&head.headers),
        };

        // 3. to 5. Find the s3 entries, decide about each, splice them in.
        let rewritten = match self.rewrite(kind, &unary.message, build.as_deref()).await {
            Ok(rewritten) => rewritten,
            Err(refusal) => return Ok(refuse(call, refused(refusal))),
        };

        // 6. Record the call, in case the build has to be run again.
        let recorded =
            build.as_deref().and_then(|build| build.replay().record_call(kind, &head, &unary.message, rewritten.without_imports));

        // 7. Send it to buildkitd.
        let request = match outgoing(head, unary, rewritten.message) {
            Ok(request) => request,
            Err(refusal) => return Ok(refuse(call, refusal)),
        };
        let response = self.rooms.proxy.forward(&self.upstream, request, call).await?;

        // 8. Do what the answer calls for.
        match (kind, build, recorded) {
            (SolveCall::Build, Some(build), _) => Ok(self.finish_build(&build, response).await),
            (_, Some(build), Some(recorded)) => Ok(self.record_answer(&build, recorded, response).await),
            _ => Ok(response),
        }
    }

    /// Begins the build of a `Control/Solve`, which ends with the call.
    fn begin_build(&self, message: &[u8], call: &mut Call) -> Result<Arc<Build>, Refusal> {
        let reference = build_reference(message).map_err(Refusal::malformed)?;
        let session = build_session(message).map_err(Refusal::malformed)?;
        let admitted = self.rooms.admission.admit(&session, &self.arrival).map_err(Refusal::Status)?;
        let build = self.rooms.builds.begin(&reference, &session, admitted);
        let ending = Arc::clone(&build);
        call.on_end(move |code| ending.record_code(code));
        Ok(build)
    }

    /// Finds the `type=s3` entries of a message, decides about each, and splices what was decided into the message.
    async fn rewrite(&self, kind: SolveCall, message: &[u8], build: Option<&Build>) -> Result<Rewritten, Refusal> {
        let options = CacheOptions::find(kind, message).map_err(Refusal::malformed)?;
        let decisions = self.rooms.decider.decide(build, options.entries()).await.map_err(Refusal::invalid)?;
        let rewritten = options.splice(&decisions).map_err(Refusal::malformed)?;
        if let (Some(build), Some(rewritten)) = (build, &rewritten) {
            let named = self.rooms.progress.name_entries(build.reference(), build.session(), &decisions, rewritten);
            named.map_err(Refusal::malformed)?;
        }
        let without_imports = options.splice_without_imports(&decisions).map_err(Refusal::malformed)?;
        Ok(Rewritten { message: rewritten, without_imports })
    }

    /// The end of a build: it is run again where promised layers were lost, and what it exported through its session
    /// is published.
    async fn finish_build(&self, build: &Arc<Build>, response: Response<ResponseBody>) -> Response<ResponseBody> {
        let ending = Arc::clone(build);
        let first = FirstRun {
            upstream: &self.upstream,
            reference: build.reference(),
            replay: build.replay(),
            running: &|| self.rooms.builds.replays(),
            on_end: Box::new(move |code| ending.record_code(code)),
        };
        let response = self.rooms.replayer.replay_if_lost(first, response).await;
        self.rooms.publisher.publish(build.session_caches(), response).await
    }

    /// Records a gateway call with its answer, which the second run of its build needs.
    async fn record_answer(&self, build: &Build, recorded: RecordedCall, response: Response<ResponseBody>) -> Response<ResponseBody> {
        match self.rooms.proxy.read_answer(response).await {
            Ok(answer) => {
                build.replay().record_answer(recorded, &answer);
                answer.into_response()
            }
            Err(broken) => status::response(broken),
        }
    }
}

/// The request for buildkitd. A build lasts long, and this takes all that was read of the call: what it does not send
/// is freed before the build runs.
fn outgoing(head: Parts, unary: Unary, rewritten: Option<Vec<u8>>) -> Result<Request<RequestBody>, Status> {
    match rewritten {
        None => Ok(Request::from_parts(head, RequestBody::Whole(unary.frame))),
        Some(message) => {
            let frame = message::frame(&message).ok_or_else(|| Status::resource_exhausted("message over 4 GiB"))?;
            Ok(RequestBody::in_place(head, frame))
        }
    }
}
