//! Owns every background task and the order of the end: drain, deadline, stop.

use std::future::Future;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Handed to everything that runs in the background; clones are one and the same.
///
/// The end has two steps: after [`Shutdown::drain`] nothing new is accepted and what runs may finish;
/// after [`Shutdown::stop`] what still runs is cut off.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    draining: CancellationToken,
    stopped: CancellationToken,
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

    /// Begins the end: accept nothing new, finish what runs.
    pub fn drain(&self) {
        self.draining.cancel();
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

    /// Cuts off what still runs.
    pub fn stop(&self) {
        self.draining.cancel();
        self.stopped.cancel();
    }

    /// Waits for all tasks after a drain, at most `deadline`, then stops the rest.
    /// Returns whether all of them finished by themselves.
    pub async fn finish(&self, deadline: Duration) -> bool {
        self.tasks.close();
        let in_time = tokio::time::timeout(deadline, self.tasks.wait()).await.is_ok();
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
