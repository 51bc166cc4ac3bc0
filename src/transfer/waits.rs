//! How long a reader has waited for its store, without the time that it was away.

use std::future::Future as _;
use std::pin::Pin;
use std::task::Context;
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// A reader that waits is woken so often, to look at what it waits for. One that comes back later than that
/// was away, and has not waited all the time.
const LOOK: Duration = Duration::from_millis(100);

/// One reader's waits.
#[derive(Debug, Default)]
pub(super) struct Waits {
    total: Duration,
    since: Option<Instant>,
    look: Option<Pin<Box<Sleep>>>,
}

impl Waits {
    /// All of them, up to the last one that has ended.
    pub(super) fn total(&self) -> Duration {
        self.total
    }

    /// The reader waits.
    pub(super) fn begin(&mut self, now: Instant, context: &mut Context<'_>) {
        self.since = Some(now);
        let look = self.look.get_or_insert_with(|| Box::pin(sleep(LOOK)));
        while look.as_mut().poll(context).is_ready() {
            look.as_mut().reset(Instant::now() + LOOK);
        }
    }

    /// It is there.
    pub(super) fn end(&mut self, now: Instant) {
        if let Some(since) = self.since.take() {
            self.total += now.duration_since(since).min(LOOK);
        }
    }
}
