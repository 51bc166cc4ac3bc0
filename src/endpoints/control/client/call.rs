//! One call of a client: which room it goes through.

use std::sync::Arc;

use http::{Request, Response};
use hyper::body::Incoming;
use tonic::Status;

use super::Client;
use crate::endpoints::control::grpc::status;
use crate::endpoints::control::options::{BUILD_ID, SolveCall};
use crate::endpoints::control::progress::{self, EXPORT_TRACES, STATUS};
use crate::endpoints::control::proxy::{Answered, Call, ResponseBody, UnaryCall, refuse};
use crate::endpoints::control::session::{SESSION, session_id};

/// A gateway call with which a client does more than build.
const NEW_CONTAINER: &str = "/moby.buildkit.v1.frontend.LLBBridge/NewContainer";

/// What a client is told whose build is cut off.
const CUT_OFF: &str = "remora is shutting down, and its drain_deadline passed before this build ended";

impl Client {
    /// Serves a call, at most until the deadline of a drain.
    pub(super) async fn serve_call(self: Arc<Self>, request: Request<Incoming>) -> Result<Response<ResponseBody>, hyper::Error> {
        let shutdown = &self.rooms.shutdown;
        tokio::select! {
            answered = self.answer(request) => answered,
            () = shutdown.overdue() => Ok(status::response(Status::unavailable(CUT_OFF))),
        }
    }

    async fn answer(&self, request: Request<Incoming>) -> Answered {
        let path = request.uri().path();
        let call = self.rooms.proxy.begin(path);
        let build = self.rooms.builds.of_gateway_call(request.headers());
        if request.headers().contains_key(BUILD_ID)
            && build.is_none()
            && let Err(refusal) = self.rooms.admission.expects_builds(&self.arrival)
        {
            return Ok(refuse(call, refusal));
        }
        // A build lives as long as somebody holds it, and what it was granted with it: a call that does not need it lets go.
        let build = build.filter(|_| path == NEW_CONTAINER);
        if let Some(kind) = SolveCall::of(path) {
            return self.solve(kind, request, call).await;
        }
        match path {
            SESSION => self.session(request, call).await,
            STATUS => self.status(request, call).await,
            EXPORT_TRACES => self.traces(request, call).await,
            NEW_CONTAINER => {
                if let Some(build) = build {
                    build.replay().give_up();
                }
                self.rooms.proxy.forward_unread(&self.upstream, request, call).await
            }
            _ => self.rooms.proxy.forward_unread(&self.upstream, request, call).await,
        }
    }

    /// A `Control/Session` call: remora stands in its middle where a cache may need that.
    async fn session(&self, request: Request<Incoming>, mut call: Call) -> Answered {
        match self.rooms.admission.admit(&session_id(request.headers()), &self.arrival) {
            // Dropped when the call ends: until then the session counts as one of a running build.
            Ok(admitted) => call.on_end(move |_| drop(admitted)),
            Err(refusal) => return Ok(refuse(call, refusal)),
        }
        if self.rooms.router.may_need_sessions().await {
            self.rooms.sessions.serve(&self.upstream, request, call).await
        } else {
            self.rooms.proxy.forward_unread(&self.upstream, request, call).await
        }
    }

    /// A client's export of traces: it is forwarded without the credentials in it.
    async fn traces(&self, request: Request<Incoming>, call: Call) -> Answered {
        let UnaryCall { head, unary, call } = match self.rooms.proxy.read_call(request, call).await {
            Ok(read) => read,
            Err(ended) => return ended,
        };
        self.rooms.proxy.forward(&self.upstream, progress::masked(head, unary), call).await
    }
}
