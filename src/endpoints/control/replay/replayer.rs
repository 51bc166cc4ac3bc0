//! Makes the second run of a build.
//!
//! BuildKit cannot go back. When a promised layer does not come, it has already left steps out, and what it lacks
//! fails the build. So remora makes the build's calls once more, under a reference of their own and without the
//! cache imports, while the client waits for the answer to its first call. (*Ran*: buildkitd drops the layers
//! that nobody can provide any more, and runs their steps.) The session is the client's, and with it the context
//! and the secrets.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use http::{HeaderMap, HeaderName, HeaderValue, Response, Uri};
use prost::Message as _;
use tonic::Code;

use super::recorded_call::RecordedCall;
use super::state::Replay;
use crate::endpoints::control::grpc::{message, status, wire};
use crate::endpoints::control::options::BUILD_ID;
use crate::endpoints::control::proxy::{Proxy, RequestBody, ResponseBody, Upstream};
use crate::metrics::Metrics;
use crate::types::Digest;

/// What the progress says between the two runs.
const NOTICE: &str = "[remora] layers of the imported cache are gone: building again without it";
/// How long the progress of a first run that is over stays open until it is decided whether another run follows.
const UNDECIDED: Duration = Duration::from_secs(10);

/// How long a second run waits for other builds that may fail by the same step.
const SETTLING: Duration = Duration::from_secs(2);

/// Makes the calls of builds a second time.
#[derive(Debug)]
pub(crate) struct Replayer {
    proxy: Proxy,
    metrics: Metrics,
}

/// The first run of a build, which is over.
pub(crate) struct FirstRun<'a> {
    /// The client's connection to buildkitd.
    pub(crate) upstream: &'a Arc<Upstream>,
    /// The build's reference.
    pub(crate) reference: &'a str,
    /// The build's replay.
    pub(crate) replay: &'a Replay,
    /// The replays of all builds that run now.
    pub(crate) running: &'a (dyn Fn() -> Vec<Arc<Replay>> + Sync),
    /// Told how the second run ends.
    pub(crate) on_end: Box<dyn FnOnce(Code) + Send>,
}

impl Replayer {
    /// A replayer whose calls go through `proxy`.
    pub(crate) fn new(proxy: Proxy, metrics: Metrics) -> Self {
        Self { proxy, metrics }
    }

    /// The answer to a build whose first run ended with `response`: that of a second run, where the first failed for
    /// want of promised layers.
    pub(crate) async fn replay_if_lost(&self, first: FirstRun<'_>, response: Response<ResponseBody>) -> Response<ResponseBody> {
        if !first.replay.is_recording() {
            return response;
        }
        let answer = match self.proxy.read_answer(response).await {
            Ok(answer) => answer,
            Err(broken) => return status::response(broken),
        };
        let build = first.reference;
        let reference = format!("{build}-again");
        let failed = !matches!(answer.code(), None | Some(Code::Ok | Code::Cancelled));
        // Builds share steps, and BuildKit reads a layer for all of them with the grant of one.
        let lost = failed && (first.running)().iter().any(|replay| replay.has_broken_promise());
        let Some(calls) = first.replay.decide(lost, &reference) else { return answer.into_response() };
        tracing::warn!(
            build.ref = build,
            "layers that build {build} was promised did not come: it is run again without its cache, as {reference}"
        );
        self.metrics.builds().replayed();
        // A step that failed stays failed for as long as any build that waited for it is there.
        let decisions = (first.running)().into_iter().map(|replay| replay.second_run());
        let _ = tokio::time::timeout(SETTLING, join_all(decisions)).await;
        self.repeat(first, &reference, &calls).await.unwrap_or_else(|why| {
            tracing::warn!(build.ref = build, "build {build} cannot be run again: {why}");
            answer.into_response()
        })
    }

    /// Makes the calls of a build under another reference. The error says why that was not possible.
    async fn repeat(&self, first: FirstRun<'_>, reference: &str, calls: &[RecordedCall]) -> Result<Response<ResponseBody>, String> {
        let [build, gateway_calls @ ..] = calls else { return Err("it has no calls".to_owned()) };
        let request = build.as_build(reference).ok().flatten().ok_or("its request is malformed")?;
        let mut call = self.proxy.begin(request.uri().path());
        call.on_end(first.on_end);
        let mut solved = std::pin::pin!(self.proxy.forward(first.upstream, request, call));
        tokio::select! {
            biased;
            ended = &mut solved => return ended.map_err(|error| error.to_string()),
            repeated = self.repeat_gateway_calls(first.upstream, reference, gateway_calls) => repeated?,
        }
        solved.await.map_err(|error| error.to_string())
    }

    async fn repeat_gateway_calls(&self, upstream: &Arc<Upstream>, reference: &str, calls: &[RecordedCall]) -> Result<(), String> {
        let build = HeaderValue::from_str(reference).map_err(|error| error.to_string())?;
        let mut ids = Vec::new();
        for recorded in calls {
            let request = recorded.in_build((HeaderName::from_static(BUILD_ID), build.clone()), &ids).ok_or("a message over 4 GiB")?;
            let path = request.uri().path().to_owned();
            let call = self.proxy.begin(&path);
            let response = self.proxy.forward(upstream, request, call).await.map_err(|error| error.to_string())?;
            let answer = self.proxy.read_answer(response).await.map_err(|status| status.to_string())?;
            if answer.code() != Some(Code::Ok) {
                return Err(format!("{path} was answered {:?}", answer.code()));
            }
            let paired = recorded.paired_ids(answer.message().unwrap_or_default());
            ids.extend(paired.ok_or_else(|| format!("{path} was answered otherwise than before"))?);
        }
        Ok(())
    }

    /// What follows on a stream of a build's progress when its first run is over: a notice, and the stream of the
    /// second run, asked for with the `uri` and the `headers` of the first. `find` looks the build up at that time,
    /// since its progress may be asked for before it begins.
    pub(crate) fn follow_up(
        &self,
        upstream: &Arc<Upstream>,
        uri: Uri,
        headers: HeaderMap,
        find: impl FnOnce() -> Option<Arc<Replay>> + Send + 'static,
    ) -> BoxFuture<'static, Option<(Bytes, ResponseBody)>> {
        let proxy = self.proxy.clone();
        let upstream = Arc::clone(upstream);
        let follow_up = async move {
            // The build is not held while it is waited for, so that it can end meanwhile.
            let second_run = find()?.second_run();
            let reference = tokio::time::timeout(UNDECIDED, second_run).await.ok()??;
            let mut request = Vec::new();
            wire::put(&mut request, 1, reference.as_bytes());
            let call = proxy.begin(uri.path());
            let request = RequestBody::whole(uri, headers, message::frame(&request)?);
            let response = proxy.forward(&upstream, request, call).await.ok()?;
            let goes_on = status::code(response.headers()).is_none();
            goes_on.then_some(())?;
            Some((notice()?, response.into_body()))
        };
        follow_up.boxed()
    }
}

/// A `StatusResponse` with a vertex (1) that says what happens: its digest (1), name (3), start (5), end (6).
fn notice() -> Option<Bytes> {
    let now = prost_types::Timestamp::from(SystemTime::now()).encode_to_vec();
    let mut vertex = Vec::new();
    wire::put(&mut vertex, 1, Digest::of(NOTICE.as_bytes()).to_string().as_bytes());
    wire::put(&mut vertex, 3, NOTICE.as_bytes());
    wire::put(&mut vertex, 5, &now);
    wire::put(&mut vertex, 6, &now);
    let mut progress = Vec::new();
    wire::put(&mut progress, 1, &vertex);
    message::frame(&progress)
}
