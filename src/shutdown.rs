//! Owns every background task and the order of the end: drain, close, stop.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until, timeout, timeout_at};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// After the last build its client may ask for the build's record, on a connection of its own, or begin the build
/// for which the last one tried out what buildkitd can.
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
    closing: CancellationToken,
    overdue: CancellationToken,
    stopped: CancellationToken,
    builds: Arc<watch::Sender<Builds>>,
    tasks: TaskTracker,
}

/// The builds that run.
#[derive(Debug, Default)]
struct Builds {
    running: usize,
    last_ended: Option<Instant>,
    drains_since: Option<Instant>,
    /// No build may begin any more.
    is_over: bool,
}

/// A build, or a part of one, that the endpoints stay open for until this is dropped.
#[derive(Debug)]
pub struct Build(Arc<watch::Sender<Builds>>);

impl Drop for Build {
    fn drop(&mut self) {
        self.0.send_modify(|builds| {
            builds.running -= 1;
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

    /// A build begins, or a part of one. `may_begin` decides, given since when no new builds are wanted, if that is
    /// so; when the endpoints close, none may.
    #[must_use]
    pub fn begin_build(&self, may_begin: impl FnOnce(Option<Instant>) -> bool) -> Option<Build> {
        let begins = self.builds.send_if_modified(|builds| {
            let begins = !builds.is_over && may_begin(builds.drains_since);
            builds.running += usize::from(begins);
            begins
        });
        begins.then(|| Build(Arc::clone(&self.builds)))
    }

    /// Begins the end: take no new build.
    pub fn drain(&self) {
        self.builds.send_modify(|builds| {
            builds.drains_since.get_or_insert_with(Instant::now);
        });
        self.draining.cancel();
    }

    /// When [`Shutdown::drain`] was called; `None` where it was not.
    #[must_use]
    pub fn drains_since(&self) -> Option<Instant> {
        self.builds.borrow().drains_since
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
        self.builds.send_modify(|builds| builds.is_over = true);
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
        // What runs then is cut off below.
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

    /// Resolves when no build has run for a moment, and lets none begin from then on.
    async fn last_build(&self) {
        let mut builds = self.builds.subscribe();
        loop {
            let (running, last_ended) = {
                let builds = builds.borrow_and_update();
                (builds.running, builds.last_ended)
            };
            let now = Instant::now();
            let quiet = last_ended.map_or(now, |ended| ended + AFTER_BUILDS);
            if running == 0 && quiet <= now {
                let over = |builds: &mut Builds| {
                    builds.is_over = builds.running == 0;
                    builds.is_over
                };
                if self.builds.send_if_modified(over) {
                    return;
                }
                continue;
            }
            tokio::select! {
                () = sleep_until(quiet), if running == 0 => {}
                // This keeps a sender, so there is always another state to come.
                _ = builds.changed() => {}
            }
        }
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
