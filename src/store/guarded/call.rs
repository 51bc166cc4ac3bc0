//! One call: tried again while that may help, within its time, as long as the breaker is closed.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::Guarded;
use crate::metrics::{BreakerState, Retry};
use crate::store::contract::CHECK_LEAF;
use crate::store::{Backoff, Error, Result};
use crate::types::Key;

/// The slowest upload to put up with, in bytes a second.
const MIN_UPLOAD_RATE: u64 = 256 << 10;
/// What joining parts or copying may take by themselves: S3 says some minutes.
const LONG: Duration = Duration::from_secs(300);
/// Tries of one call. With 30 % of them refused, one call in 15,000 fails.
const MAX_TRIES: u32 = 8;
/// Pauses between tries, the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// The pause before the first probe of a store that has just gone silent.
const FIRST_PROBE: Duration = Duration::from_millis(500);

/// How long a try may take.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// Until the first byte is due.
    Quick,
    /// As long as the body takes, on top of the total.
    Body(Duration),
    /// Some minutes.
    Long,
}

impl Pace {
    pub(super) fn of_body(bytes: u64) -> Self {
        Self::Body(Duration::from_secs(bytes / MIN_UPLOAD_RATE))
    }
}

impl Guarded {
    /// Makes a call, and again where that may help.
    pub(super) async fn call<T, F>(&self, pace: Pace, call: impl Fn() -> F) -> Result<T>
    where
        F: Future<Output = Result<T>>,
    {
        let total = self.0.policy.deadlines.total;
        let limit = match pace {
            Pace::Quick => total,
            Pace::Body(bytes) => total + bytes,
            Pace::Long => total + LONG,
        };
        let (deadline, mut backoff, mut credentials_refreshed) = (Instant::now() + limit, Backoff::new(PAUSES.0, PAUSES.1), false);
        for tries in 1.. {
            let Ok(slot) = timeout(deadline.saturating_duration_since(Instant::now()), self.0.limit.slot()).await else {
                return Err(Error::Exhausted(format!("{} is throttling: no request could go out in {limit:?}", self.0.store.url())));
            };
            if !self.0.breaker.is_closed() {
                return Err(self.gone());
            }
            let error = match self.attempt(pace, deadline, call()).await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            drop(slot);
            let retry = match &error {
                Error::Unavailable(_) => Retry::Unavailable,
                Error::Exhausted(_) => Retry::Throttled,
                Error::Denied(_) if !credentials_refreshed => {
                    credentials_refreshed = true;
                    if !self.0.store.refresh_credentials_after(&error).await {
                        return Err(error);
                    }
                    self.0.metrics.retried(Retry::Denied);
                    continue;
                }
                _ => return Err(error),
            };
            let pause = backoff.pause();
            if tries == MAX_TRIES || Instant::now() + pause >= deadline || !self.0.breaker.is_closed() {
                return Err(error);
            }
            self.0.metrics.retried(retry);
            tracing::debug!(%error, tries, "a call to the store is made again");
            sleep(pause).await;
        }
        Err(self.gone())
    }

    async fn attempt<T>(&self, pace: Pace, deadline: Instant, call: impl Future<Output = Result<T>>) -> Result<T> {
        let begun = Instant::now();
        let left = deadline.saturating_duration_since(begun);
        let first_byte = self.0.policy.deadlines.first_byte;
        let outcome = match pace {
            Pace::Quick => timeout(first_byte.min(left), call).await.unwrap_or_else(|_| Err(self.silent(begun.elapsed()))),
            Pace::Body(_) | Pace::Long => Box::pin(self.doubted(left, call)).await,
        };
        match &outcome {
            Err(Error::Unavailable(why)) => {
                // A long upload that broke says no more than a lookup that did.
                if self.0.breaker.failed(begun, 2 * first_byte) {
                    self.opened(why);
                }
            }
            Err(Error::Exhausted(_)) => {
                self.0.breaker.answered();
                if let Some(allowed) = self.0.limit.throttled() {
                    self.0.metrics.allowed(allowed);
                    tracing::info!(
                        store.url = self.0.store.url(),
                        allowed,
                        "the store is throttling: at most {allowed} requests at once now"
                    );
                }
            }
            Ok(_) | Err(_) => {
                self.0.breaker.answered();
                if let Some(allowed) = self.0.limit.answered() {
                    self.0.metrics.allowed(allowed);
                }
            }
        }
        outcome
    }

    /// A call that may take long: while nothing else is answered meanwhile, a HEAD says whether it is
    /// still worth waiting for.
    async fn doubted<T>(&self, limit: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
        let begun = Instant::now();
        let mut call = pin!(timeout(limit, call));
        loop {
            let answers = self.0.breaker.answers();
            tokio::select! {
                outcome = call.as_mut() => return outcome.unwrap_or_else(|_| Err(self.silent(begun.elapsed()))),
                () = sleep(self.0.policy.deadlines.first_byte) => {}
            }
            if self.0.breaker.answers() != answers {
                continue;
            }
            tokio::select! {
                outcome = call.as_mut() => return outcome.unwrap_or_else(|_| Err(self.silent(begun.elapsed()))),
                answered = self.answers_a_probe() => match answered {
                    true => self.0.breaker.answered(),
                    false => return Err(self.silent(begun.elapsed())),
                },
            }
        }
    }

    /// Whether the store answers a HEAD. Whether the object is there does not matter.
    async fn answers_a_probe(&self) -> bool {
        let key = Key::new("", CHECK_LEAF);
        let looked = timeout(self.0.policy.deadlines.first_byte, self.0.store.head(&key)).await;
        !matches!(looked, Err(_) | Ok(Err(Error::Unavailable(_))))
    }

    /// Says that the breaker has opened, and looks for the store until it is back.
    fn opened(&self, why: &str) {
        let guarded = self.clone();
        let url = self.0.store.url();
        tracing::warn!(store.url = url, "{url} does not answer: calls fail at once until it does ({why})");
        self.0.metrics.breaker(BreakerState::Open);
        self.0.shutdown.spawn(async move {
            let (opened, mut backoff) = (Instant::now(), Backoff::new(FIRST_PROBE, guarded.0.policy.breaker.probe_interval));
            loop {
                sleep(backoff.pause()).await;
                guarded.becomes(BreakerState::HalfOpen);
                if guarded.answers_a_probe().await {
                    break;
                }
                guarded.becomes(BreakerState::Open);
            }
            guarded.becomes(BreakerState::Closed);
            tracing::info!(store.url = url, "{url} answers again after {:.1} s", opened.elapsed().as_secs_f64());
        });
    }

    fn becomes(&self, state: BreakerState) {
        tracing::debug!(store.url = self.0.store.url(), ?state, "the breaker moves on");
        self.0.metrics.breaker(state);
        self.0.breaker.becomes(state);
    }

    fn silent(&self, waited: Duration) -> Error {
        Error::Unavailable(format!("no answer from {} in {:.1} s", self.0.store.url(), waited.as_secs_f64()))
    }

    fn gone(&self) -> Error {
        Error::Unavailable(format!("{} does not answer (its breaker is open)", self.0.store.url()))
    }
}
