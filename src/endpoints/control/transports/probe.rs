//! Finds out whether buildkitd reaches the s3 endpoint, by having it fetch something from there.
//!
//! The build is one `http` source, so buildkitd fetches it from its own network, as its S3 client
//! would. The URL carries a nonce, since buildkitd caches by URL, and the expected content is pinned,
//! so that only remora's own answer counts. `Internal` keeps the build out of the history.
//! Read in BuildKit v0.33.1: `source/http/source.go`, `solver/pb/attr.go`.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use hyper::client::conn::http2::SendRequest;
use prost::Message as _;
use rand::RngExt as _;
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::endpoints::control::proxy::{RequestBody, Upstream};
use crate::proto::moby::buildkit::v1::SolveRequest;
use crate::proto::pb;
use crate::types::Digest;

/// How long buildkitd may take. A healthy fetch of some bytes takes less, and the first call of a build, which waits
/// for the result, may be held back longer.
const TIMEOUT: Duration = Duration::from_secs(2);

/// After this long a failed probe is made again, so that one bad moment does not cost every build its cache until
/// buildkitd restarts.
const RETRY_AFTER: Duration = Duration::from_secs(300);

/// Asks buildkitd once, and again after it restarted. Builds that begin at the same time share one probe.
#[derive(Debug)]
pub(super) struct Probe {
    management: Arc<Upstream>,
    /// How long buildkitd is waited for.
    patience: Duration,
    last: Mutex<Option<ProbeResult>>,
}

#[derive(Debug)]
struct ProbeResult {
    /// The error says why buildkitd does not reach the URL.
    reached: Result<(), String>,
    /// The connection that buildkitd was asked on. It closes when buildkitd goes away; the result then ends with it.
    asked_on: SendRequest<RequestBody>,
    asked_at: Instant,
}

impl ProbeResult {
    fn is_valid(&self) -> bool {
        !self.asked_on.is_closed() && (self.reached.is_ok() || self.asked_at.elapsed() < RETRY_AFTER)
    }
}

impl Probe {
    /// Asks over remora's own connection to buildkitd, which is waited for up to `patience`.
    pub(super) fn new(management: Arc<Upstream>, patience: Duration) -> Self {
        Self { management, patience, last: Mutex::default() }
    }

    /// Who is asked.
    pub(super) fn peer(&self) -> String {
        self.management.peer()
    }

    /// Whether buildkitd reaches `url`, or why not.
    pub(super) async fn reaches(&self, url: &str) -> Result<(), String> {
        let mut last = self.last.lock().await;
        if let Some(known) = last.as_ref().filter(|last| last.is_valid()) {
            return known.reached.clone();
        }
        let asked_on = self.management.connection(self.patience).await.map_err(|status| status.message().to_owned())?;
        let reached = match tokio::time::timeout(TIMEOUT, self.management.call(SOLVE, &fetch_of(url), self.patience)).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(status)) => Err(status.message().to_owned()),
            Err(_) => Err(format!("no answer within {} seconds", TIMEOUT.as_secs())),
        };
        if reached.is_ok() {
            tracing::info!(s3.advertise = url, "buildkitd reaches the s3 endpoint at {url}: caches go through it");
        }
        *last = Some(ProbeResult { reached: reached.clone(), asked_on, asked_at: Instant::now() });
        reached
    }
}

const SOLVE: &str = "/moby.buildkit.v1.Control/Solve";

/// A build that fetches `<url>/.remora/probe/<nonce>`, whose content is the nonce.
fn fetch_of(url: &str) -> Vec<u8> {
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
