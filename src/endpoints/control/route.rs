//! How the bytes of a build's cache go: through the s3 endpoint, or not at all.

use super::{Control, Transport};

/// The way of one build.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Route {
    /// buildkitd speaks to the s3 endpoint at this URL.
    Relay(String),
    /// The build runs without its s3 cache.
    Nowhere,
}

impl Control {
    /// Chooses the way of a build; says in the log where it gets no cache, why, and what to set.
    pub(super) async fn choose_route(&self, reference: &str) -> Route {
        let why = match (self.config.transport, &self.config.advertise) {
            (Transport::Session, _) => "transport session is not built yet: set --transport auto or relay".to_owned(),
            (_, None) => "this remora has no s3 endpoint: set --s3 (and --s3-advertise)".to_owned(),
            (Transport::Relay, Some(url)) => return Route::Relay(url.clone()),
            (Transport::Auto, Some(url)) => match self.probe.reaches(url, &self.management, self.config.connect_timeout).await {
                Ok(()) => return Route::Relay(url.clone()),
                Err(why) => format!(
                    "buildkitd at {} does not reach the s3 endpoint at {url} ({why}): set --s3 and --s3-advertise to an address \
                         that buildkitd reaches, or --transport relay to skip this check",
                    self.config.buildkitd,
                ),
            },
        };
        tracing::warn!(build.ref = reference, "build {reference} runs without its s3 cache: {why}");
        Route::Nowhere
    }
}
