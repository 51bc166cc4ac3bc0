//! A `Control/Status` call: the progress of a build, to its end.

use std::sync::Arc;

use http::Request;
use http_body::Body as _;
use hyper::body::Incoming;

use super::Client;
use crate::endpoints::control::options::build_reference;
use crate::endpoints::control::progress;
use crate::endpoints::control::proxy::{Answered, Call, UnaryCall, refuse};

impl Client {
    /// Forwards the call, and names the vertexes of the build's cache in the answer. Where the build is run again, the
    /// progress of that run follows.
    pub(super) async fn status(&self, request: Request<Incoming>, call: Call) -> Answered {
        let rooms = &self.rooms;
        let UnaryCall { head, unary, call } = match rooms.proxy.read_call(request, call).await {
            Ok(read) => read,
            Err(ended) => return ended,
        };
        // A malformed request is left for buildkitd to refuse.
        let reference = build_reference(&unary.message).unwrap_or_default();
        if rooms.builds.find(&reference).is_none()
            && let Err(refusal) = rooms.admission.expects_builds(&self.arrival)
        {
            return Ok(refuse(call, refusal));
        }
        let request = progress::uncompressed(head, unary);
        let uri = request.uri().clone();
        let headers = request.headers().clone();
        let response = rooms.proxy.forward(&self.upstream, request, call).await?;
        let follow_up = (!response.body().is_end_stream()).then(|| {
            let builds = Arc::clone(&rooms.builds);
            let build = reference.clone();
            let find = move || builds.find(&build).map(|build| Arc::clone(build.replay()));
            rooms.replayer.follow_up(&self.upstream, uri, headers, find)
        });
        Ok(progress::named(Arc::clone(&rooms.progress), reference, response, follow_up))
    }
}
