//! The second run of a build that failed because layers that a manifest had promised did not come.
//!
//! BuildKit cannot go back: it has left steps out by then, and what it lacks fails the build. So remora makes
//! the build's calls ([`recording`](super::recording)) once more, under a reference of their own and without
//! the cache imports, while the client waits for the answer to its first. (*Ran*: buildkitd drops the
//! layers that nobody can provide any more, and runs their steps.) The session, and so the context and the
//! secrets, are the client's, and the second run's progress follows the first one's on the same stream.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use http::request::Parts;
use http::{HeaderName, HeaderValue, Request, Response};
use http_body::Body as _;
use prost::Message as _;
use tokio::sync::watch;
use tonic::Code;

use super::recording::{Asked, Outputs, Recording};
use crate::endpoints::control::Control;
use crate::endpoints::control::admission::Admitted;
use crate::endpoints::control::builds::build::Build;
use crate::endpoints::control::grpc::{message, status, wire};
use crate::endpoints::control::proxy::body::{RequestBody, ResponseBody};
use crate::endpoints::control::proxy::call::Call;
use crate::endpoints::control::proxy::forward::{Answer, forward};
use crate::endpoints::control::proxy::upstream::Upstream;
use crate::types::{Digest, Promises};

/// The metadata in which gateway calls name their build (`client/buildid` of BuildKit v0.33).
pub(crate) const BUILD_ID: &str = "buildkit-controlapi-buildid";
/// What the progress says between the two runs.
const NOTICE: &str = "[remora] layers of the imported cache are gone: building again without it";
/// How long the progress of a run that is over is held open for what becomes of the build.
const UNDECIDED: Duration = Duration::from_secs(10);

/// How long other builds are waited for that may fail by the same step.
const SETTLING: Duration = Duration::from_secs(2);

/// What follows on a stream of progress: a message, and the stream of the second run.
pub(crate) type Sequel = BoxFuture<'static, Option<(Bytes, ResponseBody)>>;

/// What it takes to run one build again.
#[derive(Debug)]
pub(crate) struct Replay {
    promises: Arc<Promises>,
    recording: Recording,
    fate: watch::Sender<Fate>,
}

/// What follows the end of a build's run.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Fate {
    /// Nothing.
    Over,
    /// Another run, perhaps.
    Open,
    /// Another run, under this reference.
    Again(String),
}

impl Replay {
    /// For a build with these promises. Until [`Self::begin`], it is not run again.
    pub(crate) fn new(promises: Arc<Promises>) -> Self {
        Self { promises, recording: Recording::default(), fate: watch::Sender::new(Fate::Over) }
    }

    /// The build begins, with this call, which may have to be made again.
    pub(crate) fn begin(&self, call: Asked, outputs: Outputs) {
        if self.recording.begin(call, outputs) {
            self.promises.set_replayable(true);
            self.fate.send_replace(Fate::Open);
        }
    }

    /// A call that may have to be made again, to be [added](Self::add) when it is answered; not one that is
    /// too large to be kept so long.
    pub(crate) fn keep(&self, call: Asked) -> Option<Asked> {
        let kept = self.recording.holds(&call).then_some(call);
        if kept.is_none() {
            self.give_up();
        }
        kept
    }

    /// The build goes on with this call.
    pub(crate) fn add(&self, call: Asked) {
        if self.recording.is_on() && !self.recording.add(call) {
            self.give_up();
        }
    }

    /// The build does what cannot be made again.
    pub(crate) fn give_up(&self) {
        self.promises.set_replayable(false);
        self.recording.give_up();
        self.fate.send_replace(Fate::Over);
    }

    /// Whether its calls are recorded.
    pub(crate) fn is_possible(&self) -> bool {
        self.recording.is_on()
    }

    /// Whether a layer that was promised to the build did not come.
    fn has_lost(&self) -> bool {
        self.promises.is_broken()
    }

    /// The build is over; it is run again under `reference` if it failed for want of promised layers: `lost`.
    /// Returns the calls to make then.
    fn decide(&self, lost: bool, reference: &str) -> Option<Vec<Asked>> {
        let calls = self.recording.take(self.promises.has_begun_export()).filter(|_| lost);
        self.fate.send_replace(if calls.is_some() { Fate::Again(reference.to_owned()) } else { Fate::Over });
        calls
    }

    /// The reference of the second run, if there is one: known when the first is over.
    fn reference(&self) -> impl Future<Output = Option<String>> + Send + use<> {
        let mut fate = self.fate.subscribe();
        async move {
            match &*fate.wait_for(|fate| *fate != Fate::Open).await.ok()? {
                Fate::Again(reference) => Some(reference.clone()),
                Fate::Over | Fate::Open => None,
            }
        }
    }
}

impl Control {
    /// The answer to a build that ended with `response`: where it failed for want of promised layers, that of
    /// its second run, for which the endpoints stay open like for the first.
    pub(crate) async fn outlive(
        &self,
        upstream: &Arc<Upstream>,
        build: &Arc<Build>,
        response: Response<ResponseBody>,
        admitted: Option<Admitted>,
    ) -> Response<ResponseBody> {
        if !build.replay().is_possible() {
            return response;
        }
        let answer = match Answer::read(response, self.config.max_message_bytes).await {
            Ok(answer) => answer,
            Err(broken) => return status::response(broken),
        };
        let failed = !matches!(answer.code(), None | Some(Code::Ok | Code::Cancelled));
        let reference = format!("{}-again", build.reference());
        // Builds share steps, and BuildKit reads a layer for all of them with the grant of one.
        let lost = failed && self.builds.all().iter().any(|build| build.replay().has_lost());
        let Some(calls) = build.replay().decide(lost, &reference) else { return answer.into_response() };
        tracing::warn!(
            build.ref = build.reference(),
            "layers that build {} was promised did not come: it is run again without its cache, as {reference}",
            build.reference()
        );
        self.metrics.build_replayed();
        // A step that failed stays so for as long as any build that waited for it is there.
        let first_runs = self.builds.all().into_iter().map(|build| build.replay().reference());
        let _ = tokio::time::timeout(SETTLING, join_all(first_runs)).await;
        self.repeat(upstream, build, &reference, &calls, admitted).await.unwrap_or_else(|why| {
            tracing::warn!(build.ref = build.reference(), "build {} cannot be run again: {why}", build.reference());
            answer.into_response()
        })
    }

    /// Makes the calls of a build under another reference. The error says why it came to nothing.
    async fn repeat(
        &self,
        upstream: &Arc<Upstream>,
        build: &Arc<Build>,
        reference: &str,
        calls: &[Asked],
        admitted: Option<Admitted>,
    ) -> Result<Response<ResponseBody>, String> {
        let [begin, gateway @ ..] = calls else { return Err("it has no calls".to_owned()) };
        let begin = begin.as_build(reference).ok().flatten().ok_or("its request is malformed")?;
        let mut call = Call::begin(begin.uri().path(), self.metrics.clone());
        call.is_build(Arc::clone(build));
        if let Some(admitted) = admitted {
            call.is_admitted(admitted);
        }
        let mut solved = std::pin::pin!(forward(upstream, begin, self.config.connect_timeout, call));
        tokio::select! {
            biased;
            ended = &mut solved => return ended.map_err(|error| error.to_string()),
            asked = self.repeat_gateway_calls(upstream, reference, gateway) => asked?,
        }
        solved.await.map_err(|error| error.to_string())
    }

    async fn repeat_gateway_calls(&self, upstream: &Arc<Upstream>, reference: &str, calls: &[Asked]) -> Result<(), String> {
        let build = HeaderValue::from_str(reference).map_err(|error| error.to_string())?;
        let mut ids = Vec::new();
        for asked in calls {
            let request = asked.in_build((HeaderName::from_static(BUILD_ID), build.clone()), &ids).ok_or("a message over 4 GiB")?;
            let path = request.uri().path().to_owned();
            let call = Call::begin(&path, self.metrics.clone());
            let response = forward(upstream, request, self.config.connect_timeout, call).await.map_err(|error| error.to_string())?;
            let answer = Answer::read(response, self.config.max_message_bytes).await.map_err(|status| status.to_string())?;
            if answer.code() != Some(Code::Ok) {
                return Err(format!("{path} was answered {:?}", answer.code()));
            }
            let results = asked.paired_results(answer.message().unwrap_or_default());
            ids.extend(results.ok_or_else(|| format!("{path} was answered otherwise than before"))?);
        }
        Ok(())
    }

    /// Keeps a gateway call of a build and its answer, so that it can be made again.
    pub(crate) async fn record(&self, build: &Build, asked: Asked, response: Response<ResponseBody>) -> Response<ResponseBody> {
        let answer = match Answer::read(response, self.config.max_message_bytes).await {
            Ok(answer) => answer,
            Err(broken) => return status::response(broken),
        };
        // What failed is the client's to deal with; it may go on without.
        if answer.code() == Some(Code::Ok) {
            match answer.message().map(|message| asked.answered(message)) {
                Some(Ok(asked)) => build.replay().add(asked),
                _ => build.replay().give_up(),
            }
        }
        answer.into_response()
    }

    /// What follows on the stream of a build's progress, which `head` asked for and `response` begins.
    pub(crate) fn sequel(
        &self,
        upstream: &Arc<Upstream>,
        head: &Parts,
        reference: &str,
        response: &Response<ResponseBody>,
    ) -> Option<Sequel> {
        if response.body().is_end_stream() {
            return None;
        }
        let (builds, upstream, reference) = (Arc::clone(&self.builds), Arc::clone(upstream), reference.to_owned());
        let (uri, headers) = (head.uri.clone(), head.headers.clone());
        let (metrics, patience) = (self.metrics.clone(), self.config.connect_timeout);
        let sequel = async move {
            // The build must be able to end meanwhile.
            let again = builds.find(&reference)?.replay().reference();
            let again = tokio::time::timeout(UNDECIDED, again).await.ok()??;
            let mut request = Vec::new();
            wire::put(&mut request, 1, again.as_bytes());
            let mut request = Request::new(RequestBody::Whole(message::frame(&request)?));
            *request.method_mut() = http::Method::POST;
            *request.version_mut() = http::Version::HTTP_2;
            let call = Call::begin(uri.path(), metrics);
            (*request.uri_mut(), *request.headers_mut()) = (uri, headers);
            let response = forward(&upstream, request, patience, call).await.ok()?;
            let goes_on = status::code(response.headers()).is_none();
            goes_on.then_some(())?;
            Some((notice()?, response.into_body()))
        };
        Some(sequel.boxed())
    }
}

/// A `StatusResponse` with a vertex (1) that says what happens: its digest (1), name (3), start (5), end (6).
fn notice() -> Option<Bytes> {
    let now = prost_types::Timestamp::from(SystemTime::now()).encode_to_vec();
    let (mut vertex, mut progress) = (Vec::new(), Vec::new());
    wire::put(&mut vertex, 1, Digest::of(NOTICE.as_bytes()).to_string().as_bytes());
    wire::put(&mut vertex, 3, NOTICE.as_bytes());
    wire::put(&mut vertex, 5, &now);
    wire::put(&mut vertex, 6, &now);
    wire::put(&mut progress, 1, &vertex);
    message::frame(&progress)
}
