//! How the bytes of a build's cache go: through the s3 endpoint, or through the build's session.

use crate::endpoints::control::{Control, Transport};

/// The way of one build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Route {
    /// buildkitd speaks to the s3 endpoint at this URL.
    Relay(String),
    /// buildkitd asks through the session.
    Session,
}

impl Control {
    /// Chooses the way of a build. Where it is the slower one because the other does not work, the log
    /// says why and what to set.
    pub(crate) async fn choose_route(&self, reference: &str) -> Route {
        let why = match (self.config.transport, &self.config.advertise) {
            (Transport::Session, _) => return Route::Session,
            (Transport::Relay, Some(url)) => return Route::Relay(url.clone()),
            (_, None) => "this remora has no s3 endpoint: set --s3 (and --s3-advertise)".to_owned(),
            (Transport::Auto, Some(url)) => match self.reaches(url).await {
                Ok(()) => return Route::Relay(url.clone()),
                Err(why) => format!(
                    "buildkitd at {} does not reach the s3 endpoint at {url} ({why}): set --s3 and --s3-advertise to an address \
                     that buildkitd reaches, or --transport session to skip this check",
                    self.config.buildkitd,
                ),
            },
        };
        tracing::warn!(build.ref = reference, "the cache of build {reference} goes through its session, which is slower: {why}");
        Route::Session
    }

    /// Whether sessions that begin now are taken apart: they are where builds may need it.
    pub(crate) async fn joins_sessions(&self) -> bool {
        match (self.config.transport, &self.config.advertise) {
            (Transport::Session, _) | (_, None) => true,
            (Transport::Relay, Some(_)) => false,
            (Transport::Auto, Some(url)) => self.reaches(url).await.is_err(),
        }
    }

    async fn reaches(&self, url: &str) -> Result<(), String> {
        self.probe.reaches(url, &self.management, self.config.connect_timeout).await
    }
}
