//! One call: retried while that may help, within its deadline, as long as the breaker is closed.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use super::guard::Guarded;
use crate::metrics::{BreakerState, Retry};
use crate::store::contract::CHECK_LEAF;
use crate::store::{Backoff, Error, Result};
use crate::types::Key;

/// The slowest upload that is put up with, in bytes a second.
const MIN_UPLOAD_RATE: u64 = 256 << 10;
/// How long it may take to join parts or to copy an object: S3's documentation says some minutes.
const LONG: Duration = Duration::from_secs(300);
/// Attempts of one call. With 30 % of them refused, one call in 15,000 fails.
const MAX_TRIES: u32 = 8;
/// Pauses between attempts: the first and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));
/// The pause before the first probe of a store that has just gone silent.
const FIRST_PROBE: Duration = Duration::from_millis(500);

/// How long an attempt may take.
#[derive(Debug, Clone, Copy)]
pub(super) enum Pace {
    /// As long as the deadline of the first byte.
    Quick,
    /// The total deadline, and on top of it this time for the bytes of the body.
    Body(Duration),
    /// The total deadline and some minutes.
    Long,
}

impl Pace {
    pub(super) fn of_body(bytes: u64) -> Self {
        Self::Body(Duration::from_secs(bytes / MIN_UPLOAD_RATE))
    }
}

impl Guarded {
    /// Makes a call, and retries it where that may help.
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
        let deadline = Instant::now() + limit;
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        let mut credentials_refreshed = false;
        for tries in 1.. {
            let Ok(slot) = timeout(deadline.saturating_duration_since(Instant::now()), self.0.limit.slot()).await else {
                return Err(Error::Exhausted(format!("{} is throttling: no request could go out in {limit:?}", self.0.store.url())));
            };
            if !self.0.breaker.is_closed() {
                return Err(self.breaker_is_open());
            }
            let error = match self.attempt(pace, deadline, call()).await {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            // Frees the slot for other calls: neither the refresh of credentials nor the pause below is a request.
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
        Err(self.breaker_is_open())
    }

    async fn attempt<T>(&self, pace: Pace, deadline: Instant, call: impl Future<Output = Result<T>>) -> Result<T> {
        let begun = Instant::now();
        let left = deadline.saturating_duration_since(begun);
        let first_byte = self.0.policy.deadlines.first_byte;
        let outcome = match pace {
            Pace::Quick => timeout(first_byte.min(left), call).await.unwrap_or_else(|_| Err(self.no_answer(begun.elapsed()))),
            Pace::Body(_) | Pace::Long => Box::pin(self.watched(left, call)).await,
        };
        match &outcome {
            Err(Error::Unavailable(why)) => {
                // A long upload that broke says no more than a lookup that broke.
                if self.0.breaker.failed(begun, 2 * first_byte) {
                    self.probe_until_back(why);
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

    /// Waits for a call that may take long. While the store answers nothing else meanwhile, a HEAD says whether the call is
    /// still worth waiting for.
    async fn watched<T>(&self, limit: Duration, call: impl Future<Output = Result<T>>) -> Result<T> {
        let begun = Instant::now();
        let mut call = pin!(timeout(limit, call));
        loop {
            let answers = self.0.breaker.answers();
            tokio::select! {
                outcome = call.as_mut() => return outcome.unwrap_or_else(|_| Err(self.no_answer(begun.elapsed()))),
                () = sleep(self.0.policy.deadlines.first_byte) => {}
            }
            if self.0.breaker.answers() != answers {
                continue;
            }
            tokio::select! {
                outcome = call.as_mut() => return outcome.unwrap_or_else(|_| Err(self.no_answer(begun.elapsed()))),
                answered = self.answers_a_probe() => match answered {
                    true => self.0.breaker.answered(),
                    false => return Err(self.no_answer(begun.elapsed())),
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

    /// Logs that the breaker has opened, and probes the store until it is back.
    fn probe_until_back(&self, why: &str) {
        let guarded = self.clone();
        let url = self.0.store.url();
        tracing::warn!(store.url = url, "{url} does not answer: calls fail at once until it does ({why})");
        self.0.metrics.breaker(BreakerState::Open);
        self.0.shutdown.spawn(async move {
            let opened = Instant::now();
            let mut backoff = Backoff::new(FIRST_PROBE, guarded.0.policy.breaker.probe_interval);
            loop {
                sleep(backoff.pause()).await;
                guarded.set_breaker(BreakerState::HalfOpen);
                if guarded.answers_a_probe().await {
                    break;
                }
                guarded.set_breaker(BreakerState::Open);
            }
            guarded.set_breaker(BreakerState::Closed);
            tracing::info!(store.url = url, "{url} answers again after {:.1} s", opened.elapsed().as_secs_f64());
        });
    }

    fn set_breaker(&self, state: BreakerState) {
        tracing::debug!(store.url = self.0.store.url(), ?state, "the breaker changes its state");
        self.0.metrics.breaker(state);
        self.0.breaker.set(state);
    }

    fn no_answer(&self, waited: Duration) -> Error {
        Error::Unavailable(format!("no answer from {} in {:.1} s", self.0.store.url(), waited.as_secs_f64()))
    }

    fn breaker_is_open(&self) -> Error {
        Error::Unavailable(format!("{} does not answer (its breaker is open)", self.0.store.url()))
    }
}
