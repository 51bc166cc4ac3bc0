//! Owns every background task, and the order in which the process ends: drain, close, stop.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// After the last build, the client may still ask for the record of the build, on another connection, or begin a second build
/// for which the last one only tested what buildkitd supports.
const AFTER_BUILDS: Duration = Duration::from_secs(1);

/// How long callers that are cut off have for reading why.
const GOODBYE: Duration = Duration::from_secs(1);

/// Handed to everything that runs in the background. Clones share their state.
///
/// The end has three steps. After [`Shutdown::drain`], no new build is taken, and whatever the running builds still need is
/// served, including new connections. When the builds are over, the endpoints close: no connection is accepted any more, and
/// running calls may finish. In the end, or when the deadline has passed, everything that is still running is stopped.
#[derive(Clone, Debug, Default)]
pub struct Shutdown {
    draining: CancellationToken,
    closing: CancellationToken,
    overdue: CancellationToken,
    stopped: CancellationToken,
    builds: Arc<watch::Sender<RunningBuilds>>,
    tasks: TaskTracker,
}

/// The running builds.
#[derive(Debug, Default)]
struct RunningBuilds {
    count: usize,
    last_ended: Option<Instant>,
    draining_since: Option<Instant>,
    /// No build may begin any more.
    is_over: bool,
}

/// A build, or a part of one. The endpoints stay open until this is dropped.
#[derive(Debug)]
pub struct Build(Arc<watch::Sender<RunningBuilds>>);

impl Drop for Build {
    fn drop(&mut self) {
        self.0.send_modify(|builds| {
            builds.count -= 1;
            builds.last_ended = Some(Instant::now());
        });
    }
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

    /// Begins a build, or a part of one. `may_begin` decides; it is told since when remora has been draining, if it is. No
    /// build may begin once the endpoints are closing.
    #[must_use]
    pub fn begin_build(&self, may_begin: impl FnOnce(Option<Instant>) -> bool) -> Option<Build> {
        let begins = self.builds.send_if_modified(|builds| {
            let begins = !builds.is_over && may_begin(builds.draining_since);
            builds.count += usize::from(begins);
            begins
        });
        begins.then(|| Build(Arc::clone(&self.builds)))
    }

    /// Begins to drain: no new build is to be taken.
    pub fn drain(&self) {
        self.builds.send_modify(|builds| {
            builds.draining_since.get_or_insert_with(Instant::now);
        });
        self.draining.cancel();
    }

    /// When [`Shutdown::drain`] was called; `None` if it was not.
    #[must_use]
    pub fn draining_since(&self) -> Option<Instant> {
        self.builds.borrow().draining_since
    }

    /// Resolves as soon as [`Shutdown::drain`] has been called.
    pub async fn draining(&self) {
        self.draining.cancelled().await;
    }

    /// Whether [`Shutdown::drain`] has been called.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Closes the endpoints: no connection is accepted any more, and running calls may finish.
    pub fn close(&self) {
        self.drain();
        self.builds.send_modify(|builds| builds.is_over = true);
        self.closing.cancel();
    }

    /// Resolves when the endpoints close, because no build is running that could need them.
    pub async fn closing(&self) {
        self.closing.cancelled().await;
    }

    /// Whether the endpoints close.
    #[must_use]
    pub fn is_closing(&self) -> bool {
        self.closing.is_cancelled()
    }

    /// Resolves when the deadline of [`Shutdown::finish`] has passed. A moment is left for telling callers that wait for an
    /// answer.
    pub async fn overdue(&self) {
        self.overdue.cancelled().await;
    }

    /// Stops everything that is still running.
    pub fn stop(&self) {
        self.close();
        self.stopped.cancel();
    }

    /// Drains, waits for the builds, closes the endpoints, and waits for the other tasks, at most `deadline` in all. Then stops
    /// what is still running. Returns whether everything finished by itself.
    pub async fn finish(&self, deadline: Duration) -> bool {
        let deadline = Instant::now() + deadline;
        self.drain();
        // Builds that are still running then are cut off below.
        let _ = timeout_at(deadline, self.last_build()).await;
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

    /// Resolves when no build has been running for a moment. From then on no build may begin.
    async fn last_build(&self) {
        let mut builds = self.builds.subscribe();
        loop {
            let (running, last_ended) = {
                let builds = builds.borrow_and_update();
                (builds.count, builds.last_ended)
            };
            let now = Instant::now();
            let quiet = last_ended.map_or(now, |ended| ended + AFTER_BUILDS);
            if running == 0 && quiet <= now {
                let over = |builds: &mut RunningBuilds| {
                    builds.is_over = builds.count == 0;
                    builds.is_over
                };
                if self.builds.send_if_modified(over) {
                    return;
                }
                continue;
            }
            tokio::select! {
                () = sleep_until(quiet), if running == 0 => {}
                // `self` keeps a sender, so this cannot fail.
                _ = builds.changed() => {}
            }
        }
    }

    /// How many tasks are running.
    #[must_use]
    pub fn tasks(&self) -> usize {
        self.tasks.len()
    }
}

/// hyper's own tasks are owned here, too.
impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Shutdown {
    fn execute(&self, task: F) {
        self.spawn(task);
    }
}
