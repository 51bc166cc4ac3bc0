//! How many requests may be in flight at once, for the whole process: half as many when the store says to slow down, and one
//! more after each round of answers (additive increase, multiplicative decrease).
//!
//! The SDK's adaptive retry mode was considered instead. It paces the retries of each client by a token bucket that nothing
//! outside can see or bound, and does not hold back the first attempts of other calls.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::Instant;

/// Refusals that are this close together belong to one burst, which halves the limit once.
const BURST: Duration = Duration::from_millis(100);

/// The slots of one store.
#[derive(Debug)]
pub(super) struct Limit {
    max: usize,
    slots: Semaphore,
    state: Mutex<Allowance>,
}

/// How many requests are allowed, and how that came about.
#[derive(Debug)]
struct Allowance {
    allowed: usize,
    /// How many slots are to be removed as soon as they are free.
    surplus: usize,
    /// Answers since `allowed` last changed.
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
        Self { max, slots: Semaphore::new(max), state: Mutex::new(Allowance { allowed: max, surplus: 0, answers: 0, halved: None }) }
    }

    /// Waits for a slot.
    pub(super) async fn slot(&self) -> Slot<'_> {
        // The semaphore is never closed. Without a permit the call would only not be counted.
        Slot { limit: self, permit: self.slots.acquire().await.ok() }
    }

    /// Records that the store has said to slow down. Returns how many requests are allowed now, where that has changed.
    pub(super) fn throttled(&self) -> Option<usize> {
        let mut state = self.state();
        state.answers = 0;
        if state.allowed == 1 || state.halved.is_some_and(|at| at.elapsed() < BURST) {
            return None;
        }
        let allowed = state.allowed / 2;
        let wanted = state.allowed - allowed;
        state.surplus += wanted - self.slots.forget_permits(wanted);
        state.allowed = allowed;
        state.halved = Some(Instant::now());
        Some(allowed)
    }

    /// Records that the store has done what it was asked. Returns how many requests are allowed now, where that has
    /// changed.
    pub(super) fn answered(&self) -> Option<usize> {
        let mut state = self.state();
        if state.allowed == self.max {
            return None;
        }
        state.answers += 1;
        if state.answers < state.allowed {
            return None;
        }
        state.allowed += 1;
        state.answers = 0;
        match state.surplus {
            0 => self.slots.add_permits(1),
            _ => state.surplus -= 1,
        }
        Some(state.allowed)
    }

    /// Whether the store is not throttling and a slot is free.
    pub(super) fn has_headroom(&self) -> bool {
        self.state().allowed == self.max && self.slots.available_permits() > 0
    }

    fn state(&self) -> MutexGuard<'_, Allowance> {
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
