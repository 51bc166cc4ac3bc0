//! Owns every background task and the order of the end: drain, close, stop.

use std::future::Future;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// After the last build its client may ask for the build's record, on a connection of its own.
const AFTER_BUILDS: Duration = Duration::from_secs(1);

/// How long callers that are cut off have to read why.
const GOODBYE: Duration = Duration::from_secs(1);

/// Handed to everything that runs in the background; clones are one and the same.
///
/// The end has three steps. After [`Shutdown::drain`] no new build is taken, and whatever the running builds
/// still need is served, new connections included. When they are over, the endpoints close: no connection is
/// accepted, and calls that run may finish. At last, or when the deadline has passed, what still runs is
/// stopped.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    draining: CancellationToken,
    drains_since: Arc<OnceLock<Instant>>,
    closing: CancellationToken,
    overdue: CancellationToken,
    stopped: CancellationToken,
    builds: TaskTracker,
    tasks: TaskTracker,
}

impl Shutdown {
    /// Runs `task` until it is done or the process stops. The only place that spawns.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stopped = self.stopped.clone();
        #[expect(clippy::disallowed_methods, reason = "the one spawner; everything else goes through it")]
        self.tasks.spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                () = task => {}
            }
        });
    }

    /// Marks a build, or a part of one, that the endpoints stay open for: until the token is dropped.
    pub fn build(&self) -> TaskTrackerToken {
        self.builds.token()
    }

    /// Begins the end: take no new build.
    pub fn drain(&self) {
        self.drains_since.get_or_init(Instant::now);
        self.draining.cancel();
    }

    /// When [`Shutdown::drain`] was called; `None` where it was not.
    #[must_use]
    pub fn drains_since(&self) -> Option<Instant> {
        self.drains_since.get().copied()
    }

    /// Resolves when [`Shutdown::drain`] was called.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Whether [`Shutdown::drain`] was called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Accepts no connection any more; what runs may finish.
    pub fn close(&self) {
        self.drain();
        self.closing.cancel();
    }

    /// Resolves when the endpoints close: no build runs that could need them.
    pub async fn closing(&self) {
        self.closing.cancelled().await;
    }

    /// Whether the endpoints close.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Resolves when the deadline of [`Shutdown::finish`] has passed: who waits for an answer is told so, in the
    /// moment that is left.
    pub async fn overdue(&self) {
        self.overdue.cancelled().await;
    }

    /// Cuts off what still runs.
    pub fn stop(&self) {
        self.close();
        self.stopped.cancel();
    }

    /// Drains, waits for the builds, closes the endpoints, waits for the other tasks, at most `deadline` in all,
    /// and stops the rest. Returns whether everything finished by itself.
    pub async fn finish(&self, deadline: Duration) -> bool {
        let deadline = Instant::now() + deadline;
        self.drain();
        self.builds.close();
        if !self.builds.is_empty() && timeout_at(deadline, self.builds.wait()).await.is_ok() {
            sleep(AFTER_BUILDS).await;
        }
        self.close();
        self.tasks.close();
        let in_time = timeout_at(deadline, self.tasks.wait()).await.is_ok();
        if !in_time {
            self.overdue.cancel();
            let _ = timeout(GOODBYE, self.tasks.wait()).await;
        }
        self.stop();
        self.tasks.wait().await;
        in_time
    }

    /// How many tasks run now.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }
}

/// hyper's own tasks are of those that are owned here.
impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Shutdown {
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}
