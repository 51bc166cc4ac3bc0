//! How long a reader has waited for its store, not counting the time in which it did not ask.

use std::future::Future as _;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// A waiting reader is woken this often to poll again. A reader that polls later than that was busy elsewhere, and has not
/// waited all the time.
const LOOK: Duration = Duration::from_millis(100);

/// One reader's waits.
#[derive(Debug, Default)]
pub(super) struct Waits {
    total: Duration,
    since: Option<Instant>,
    look: Option<Pin<Box<Sleep>>>,
}

impl Waits {
    /// How long all waits took that have ended.
    pub(super) fn total(&self) -> Duration {
        self.total
    }

    /// The reader begins to wait.
    pub(super) fn begin(&mut self, now: Instant, context: &mut Context<'_>) {
        self.since = Some(now);
        let look = self.look.get_or_insert_with(|| Box::pin(sleep(LOOK)));
        while look.as_mut().poll(context).is_ready() {
            look.as_mut().reset(Instant::now() + LOOK);
        }
    }

    /// The reader polls again, so its wait has ended.
    pub(super) fn end(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.total += now.duration_since(since).min(LOOK);
        }
    }
}
