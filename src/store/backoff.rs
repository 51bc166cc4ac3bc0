//! Pauses between retries.

use std::time::Duration;

/// Exponential backoff: each pause may be twice as long as the one before, up to a bound. It is shortened at random by up
/// to a half (jitter), so that callers that failed together do not retry together.
#[derive(Debug, Clone)]
pub struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    /// Pauses of up to `first`, and in the end up to `longest`.
    #[must_use]
    pub fn new(first: Duration, longest: Duration) -> Self {
        Self { next: first.min(longest), longest }
    }

    /// The next pause.
    pub fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(self.longest);
        pause.mul_f64(rand::random_range(0.5..=1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_their_bound_and_stay_there() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(2));
        for longest in [100, 200, 400, 800, 1600].into_iter().chain([2000; 100]) {
            let (longest, pause) = (Duration::from_millis(longest), backoff.pause());
            assert!(pause >= longest / 2 && pause <= longest, "{pause:?} of {longest:?}");
        }
        assert!(Backoff::new(Duration::from_secs(9), Duration::from_secs(1)).pause() <= Duration::from_secs(1));
    }
}
