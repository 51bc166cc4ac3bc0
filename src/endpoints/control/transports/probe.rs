//! Finds out whether buildkitd reaches the s3 endpoint, by having it fetch something from there.
//!
//! The build is one `http` source, so buildkitd fetches it from its own network, as its S3 client
//! would. The URL carries a nonce, since buildkitd caches by URL, and the expected content is pinned,
//! so that only remora's own answer counts. `Internal` keeps the build out of the history.
//! Read in BuildKit v0.33.1: `source/http/source.go`, `solver/pb/attr.go`.

use std::collections::HashMap;
use std::time::Duration;

use hyper::client::conn::http2::SendRequest;
use prost::Message as _;
use rand::RngExt as _;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::endpoints::control::proxy::body::RequestBody;
use crate::endpoints::control::proxy::upstream::Upstream;
use crate::proto::moby::buildkit::v1::SolveRequest;
use crate::proto::pb;
use crate::types::Digest;

/// Longer than a healthy fetch of some bytes takes, and shorter than what a build's first call may be
/// held back (`solve`).
const TIMEOUT: Duration = Duration::from_secs(2);

/// A "no" is asked again after this long, lest one bad moment costs every build its cache until
/// buildkitd restarts.
const RETRY_AFTER: Duration = Duration::from_secs(300);

/// Asks once, and again after buildkitd restarted. Builds that begin at once share one question.
#[derive(Debug, Default)]
pub(crate) struct Probe {
    answer: Mutex<Option<Answer>>,
}

#[derive(Debug)]
struct Answer {
    /// Why not.
    reached: Result<(), String>,
    /// It closes when buildkitd goes away, and the answer with it.
    asked_on: SendRequest<RequestBody>,
    asked_at: Instant,
}

impl Answer {
    fn holds(&self) -> bool {
        !self.asked_on.is_closed() && (self.reached.is_ok() || self.asked_at.elapsed() < RETRY_AFTER)
    }
}

impl Probe {
    /// Whether buildkitd reaches `url`, or why not. Waits up to `patience` for buildkitd to be there.
    pub(crate) async fn reaches(&self, url: &str, management: &Upstream, patience: Duration) -> Result<(), String> {
        let mut answer = self.answer.lock().await;
        if let Some(known) = answer.as_ref().filter(|answer| answer.holds()) {
            return known.reached.clone();
        }
        let asked_on = management.connection(patience).await.map_err(|status| status.message().to_owned())?;
        let reached = match tokio::time::timeout(TIMEOUT, management.call(SOLVE, &question(url), patience)).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(_) => Err(format!("no answer within {} seconds", TIMEOUT.as_secs())),
        };
        if reached.is_ok() {
            tracing::info!(s3.advertise = url, "buildkitd reaches the s3 endpoint at {url}: caches go through it");
        }
        *answer = Some(Answer { reached: reached.clone(), asked_on, asked_at: Instant::now() });
        reached
    }
}

const SOLVE: &str = "/moby.buildkit.v1.Control/Solve";

/// A build that fetches `<url>/.remora/probe/<nonce>`, whose content is the nonce.
fn question(url: &str) -> Vec<u8> {
    let nonce = hex::encode(rand::rng().random::<[u8; 16]>());
    let source = pb::SourceOp {
        identifier: format!("{}/.remora/probe/{nonce}", url.trim_end_matches('/')),
        attrs: HashMap::from([("http.checksum".to_owned(), Digest::of(nonce.as_bytes()).to_string())]),
    };
    let fetch = pb::Op { inputs: Vec::new(), op: Some(pb::op::Op::Source(source)) }.encode_to_vec();
    let fetched = pb::Input { digest: Digest::of(&fetch).to_string(), index: 0 };
    let result = pb::Op { inputs: vec![fetched], op: None }.encode_to_vec();
    let definition = pb::Definition { def: vec![fetch.into(), result.into()] };
    SolveRequest { r#ref: format!("remora-probe-{nonce}"), definition: Some(definition), internal: true }.encode_to_vec()
}
