//! How many requests may be out at once: halved when the store says to slow down, one more for each round
//! of answers (additive increase, multiplicative decrease), for the whole process.
//!
//! The SDK's adaptive retry mode was looked at instead: it paces each client's retries by a token bucket
//! that nothing outside can see or bound, and leaves first tries of other calls alone.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Refusals this close together are of one burst, and halve once.
const BURST: Duration = Duration::from_millis(100);

/// The slots of one store.
#[derive(Debug)]
pub(super) struct Limit {
    max: usize,
    slots: Semaphore,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    allowed: usize,
    /// Slots that are to go as soon as they are free.
    surplus: usize,
    /// Answers since `allowed` changed last.
    answers: usize,
    halved: Option<Instant>,
}

/// A slot in use.
#[derive(Debug)]
pub(super) struct Slot<'limit> {
    limit: &'limit Limit,
    permit: Option<SemaphorePermit<'limit>>,
}

impl Limit {
    pub(super) fn new(max: usize) -> Self {
        let max = max.max(1);
        Self { max, slots: Semaphore::new(max), state: Mutex::new(State { allowed: max, surplus: 0, answers: 0, halved: None }) }
    }

    /// Waits for a slot.
    pub(super) async fn slot(&self) -> Slot<'_> {
        // Never closed; without a permit the call would only be uncounted.
        Slot { limit: self, permit: self.slots.acquire().await.ok() }
    }

    /// The store has said to slow down. Returns how many are allowed now, where that has changed.
    pub(super) fn throttled(&self) -> Option<usize> {
        let mut state = self.state();
        state.answers = 0;
        if state.allowed == 1 || state.halved.is_some_and(|at| at.elapsed() < BURST) {
            return None;
        }
        let allowed = state.allowed / 2;
        let wanted = state.allowed - allowed;
        state.surplus += wanted - self.slots.forget_permits(wanted);
        (state.allowed, state.halved) = (allowed, Some(Instant::now()));
        Some(allowed)
    }

    /// The store has done what it was asked. Returns how many are allowed now, where that has changed.
    pub(super) fn answered(&self) -> Option<usize> {
        let mut state = self.state();
        if state.allowed == self.max {
            return None;
        }
        state.answers += 1;
        if state.answers < state.allowed {
            return None;
        }
        (state.allowed, state.answers) = (state.allowed + 1, 0);
        match state.surplus {
            0 => self.slots.add_permits(1),
            _ => state.surplus -= 1,
        }
        Some(state.allowed)
    }

    /// Whether the store has not asked for less lately, and a slot is free.
    pub(super) fn has_headroom(&self) -> bool {
        self.state().allowed == self.max && self.slots.available_permits() > 0
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot<'_> {
    fn drop(&mut self) {
        let mut state = self.limit.state();
        if state.surplus > 0
            && let Some(permit) = self.permit.take()
        {
            state.surplus -= 1;
            permit.forget();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn halves_at_once_and_recovers_by_rounds() {
        let limit = Limit::new(8);
        let mut slots = Vec::new();
        for _ in 0..8 {
            slots.push(limit.slot().await);
        }
        assert_eq!(limit.throttled(), Some(4));
        assert_eq!(limit.throttled(), None, "one burst");
        drop(slots);
        assert_eq!(limit.slots.available_permits(), 4);
        assert!(!limit.has_headroom(), "it may have less than it could");
        let rounds: Vec<usize> = (0..4 + 5 + 6 + 7).filter_map(|_| limit.answered()).collect();
        assert_eq!(rounds, [5, 6, 7, 8]);
        assert_eq!((limit.answered(), limit.slots.available_permits()), (None, 8));
        let _slots = limit.slots.acquire_many(7).await.unwrap();
        assert!(limit.has_headroom());
        let _last = limit.slot().await;
        assert!(!limit.has_headroom(), "no slot is free");
    }

    #[test]
    fn never_goes_below_one() {
        let limit = Limit::new(1);
        assert_eq!(limit.throttled(), None);
        assert_eq!(limit.slots.available_permits(), 1);
    }
}
