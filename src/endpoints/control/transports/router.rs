//! Chooses how the cache of a build travels.

use std::sync::Arc;
use std::time::Duration;

use super::Transport;
use super::probe::Probe;
use crate::endpoints::control::proxy::Upstream;

/// The way that the cache of one build takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// buildkitd speaks to the s3 endpoint at this URL.
    Relay(String),
    /// buildkitd asks through the session.
    Session,
}

/// Knows which ways there are.
#[derive(Debug)]
pub(crate) struct Router {
    transport: Transport,
    /// The s3 endpoint's URL as buildkitd sees it.
    advertise: Option<String>,
    probe: Probe,
}

impl Router {
    /// Chooses as `transport` says. `management` is remora's own connection to buildkitd, which is waited for up to
    /// `patience`.
    pub(crate) fn new(transport: Transport, advertise: Option<String>, management: Arc<Upstream>, patience: Duration) -> Self {
        Self { transport, advertise, probe: Probe::new(management, patience) }
    }

    /// Chooses the way of a build. Where it is the slower one because the other does not work, the log says why and
    /// what to set.
    pub(crate) async fn choose(&self, reference: &str) -> Route {
        let why = match (self.transport, &self.advertise) {
            (Transport::Session, _) => return Route::Session,
            (Transport::Relay, Some(url)) => return Route::Relay(url.clone()),
            (_, None) => "this remora has no s3 endpoint: set --s3 (and --s3-advertise)".to_owned(),
            (Transport::Auto, Some(url)) => match self.probe.reaches(url).await {
                Ok(()) => return Route::Relay(url.clone()),
                Err(why) => format!(
                    "{} does not reach the s3 endpoint at {url} ({why}): set --s3 and --s3-advertise to an address \
                     that buildkitd reaches, or --transport session to skip this check",
                    self.probe.peer(),
                ),
            },
        };
        tracing::warn!(build.ref = reference, "the cache of build {reference} goes through its session, which is slower: {why}");
        Route::Session
    }

    /// Whether remora stands between the two ends of a session that begins now: a build may need that for its cache.
    pub(crate) async fn may_need_sessions(&self) -> bool {
        match (self.transport, &self.advertise) {
            (Transport::Session, _) | (_, None) => true,
            (Transport::Relay, Some(_)) => false,
            (Transport::Auto, Some(url)) => self.probe.reaches(url).await.is_err(),
        }
    }
}
