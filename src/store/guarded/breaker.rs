//! The circuit breaker: closed while the store answers, open when it does not, half open while it is probed.
//!
//! It adds up how much time calls in a row without an answer have cost, and does not count the calls: two that waited for
//! seconds say more than two that broke at once. No call of a caller is used as a probe: a task of its own probes, so a dead
//! store costs only once. (The crates for this, `failsafe` and `recloser`, count calls and probe with those of callers.)

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::metrics::BreakerState;

/// The least that a failure costs: ten that come at once open a breaker with the default budget.
const MIN_COST: Duration = Duration::from_millis(500);

/// One store's breaker.
#[derive(Debug)]
pub(super) struct Breaker {
    budget: Duration,
    state: watch::Sender<BreakerState>,
    silence: Mutex<Silence>,
    answers: AtomicU64,
}

/// The time since the last answer.
#[derive(Debug)]
struct Silence {
    since: Instant,
    /// How much the failures since then have cost.
    spent: Duration,
}

impl Breaker {
    pub(super) fn new(budget: Duration) -> Self {
        let state = watch::Sender::new(BreakerState::Closed);
        Self { budget, state, silence: Mutex::new(Silence::new()), answers: AtomicU64::new(0) }
    }

    pub(super) fn is_closed(&self) -> bool {
        *self.state.borrow() == BreakerState::Closed
    }

    /// Waits until the breaker is closed.
    pub(super) async fn closed(&self) {
        // The sender is a field of `self`, so the wait can end only with that state.
        let _ = self.state.subscribe().wait_for(|state| *state == BreakerState::Closed).await;
    }

    /// How many answers there have been. While this does not grow, the store is silent.
    pub(super) fn answers(&self) -> u64 {
        self.answers.load(Ordering::Relaxed)
    }

    /// Records that the store has answered, whatever the answer was.
    pub(super) fn answered(&self) {
        self.answers.fetch_add(1, Ordering::Relaxed);
        *self.silence() = Silence::new();
    }

    /// Records that a call that was made at `begun` got no answer. At most `most` of its time counts. Returns whether this
    /// has opened the breaker.
    pub(super) fn failed(&self, begun: Instant, most: Duration) -> bool {
        let mut silence = self.silence();
        let cost = begun.max(silence.since).elapsed().min(most);
        silence.spent += cost.max(MIN_COST);
        silence.spent >= self.budget
            && self.state.send_if_modified(|state| {
                let closed = *state == BreakerState::Closed;
                if closed {
                    *state = BreakerState::Open;
                }
                closed
            })
    }

    /// Changes the state after the breaker was opened.
    pub(super) fn set(&self, state: BreakerState) {
        *self.silence() = Silence::new();
        self.state.send_replace(state);
    }

    fn silence(&self) -> MutexGuard<'_, Silence> {
        self.silence.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Silence {
    fn new() -> Self {
        Self { since: Instant::now(), spent: Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    async fn fails_after(breaker: &Breaker, wait: Duration) -> bool {
        let begun = Instant::now();
        tokio::time::advance(wait).await;
        breaker.failed(begun, 6 * SECOND)
    }

    #[tokio::test(start_paused = true)]
    async fn opens_once_when_silence_has_cost_the_budget() {
        let breaker = Breaker::new(5 * SECOND);
        assert!(!fails_after(&breaker, 3 * SECOND).await && breaker.is_closed());
        breaker.answered();
        assert!(!fails_after(&breaker, 3 * SECOND).await && breaker.is_closed());
        assert!(fails_after(&breaker, 3 * SECOND).await && !breaker.is_closed());
        assert!(!fails_after(&breaker, 3 * SECOND).await);
        breaker.set(BreakerState::Closed);
        assert!(!fails_after(&breaker, 3 * SECOND).await && breaker.is_closed());
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_waited_before_an_answer_does_not_count() {
        let breaker = Breaker::new(5 * SECOND);
        let begun = Instant::now();
        tokio::time::advance(60 * SECOND).await;
        breaker.answered();
        assert!(!breaker.failed(begun, 6 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn failures_that_come_at_once_open_it_too() {
        let breaker = Breaker::new(5 * SECOND);
        assert_eq!((1..).find(|_| breaker.failed(Instant::now(), SECOND)), Some(10));
    }
}
