//! Which builds may begin, and the sessions of those that run. While remora drains, it takes no new builds, and
//! still serves all that a running build calls for.
//!
//! A call enters with the id of its session and with when its client connected; it leaves admitted or refused. A
//! build is a `Control/Solve` and a `Control/Session`, which its client makes at about the same time and in either
//! order, and the id of the session is in both. So each of the two belongs to a running build where the other one
//! runs.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tonic::Status;

use crate::shutdown::{Build, Shutdown};

/// For so long after the drain began, clients that were connected then may still begin a build: they could not know.
const LATE_STARTS: Duration = Duration::from_secs(5);

/// How long a `Solve` waits for its session.
const SESSION_WAIT: Duration = Duration::from_secs(1);

/// What clients of new builds are told.
const REFUSAL: &str = "remora is shutting down and takes no new builds; builds that run are finished";

/// The sessions of the builds that run.
#[derive(Debug)]
pub(super) struct Admission {
    shutdown: Shutdown,
    sessions: watch::Sender<HashMap<String, SessionUse>>,
}

/// What there is of one session. It is forgotten when both counts are zero.
#[derive(Debug, Default)]
struct SessionUse {
    /// Admitted calls of its build.
    calls: usize,
    /// Calls in which remora stands between the session's two ends.
    joined: usize,
}

/// When a client connected, as far as it matters.
#[derive(Debug, Clone, Copy)]
pub(super) struct Arrival {
    before_the_drain: bool,
}

/// A call that makes a build. The endpoints stay open until this is dropped.
#[derive(Debug)]
pub(super) struct Admitted {
    admission: Arc<Admission>,
    session: String,
    _open: Build,
}

/// A session that remora stands in, until this is dropped.
#[derive(Debug)]
pub(super) struct JoinedSession {
    admission: Arc<Admission>,
    session: String,
}

impl Arrival {
    fn may_begin(&self, draining_since: Option<Instant>) -> bool {
        self.before_the_drain && draining_since.is_none_or(|since| since + LATE_STARTS > Instant::now())
    }
}

impl Admission {
    pub(super) fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, sessions: watch::Sender::default() }
    }

    /// A client connects.
    pub(super) fn arrival(&self) -> Arrival {
        Arrival { before_the_drain: !self.shutdown.is_draining() }
    }

    /// Lets in a call of the build with this session.
    ///
    /// # Errors
    /// The answer to a new build while remora drains.
    pub(super) fn admit(self: &Arc<Self>, session: &str, client: &Arrival) -> Result<Admitted, Status> {
        let mut open = None;
        self.sessions.send_if_modified(|sessions| {
            let belongs = !session.is_empty() && sessions.get(session).is_some_and(|session| session.calls > 0);
            open = self.shutdown.begin_build(|draining_since| belongs || client.may_begin(draining_since));
            if open.is_some() {
                sessions.entry(session.to_owned()).or_default().calls += 1;
            }
            // Only a joined session is waited for, so that nobody need be woken.
            false
        });
        let open = open.ok_or_else(|| Status::unavailable(REFUSAL))?;
        Ok(Admitted { admission: Arc::clone(self), session: session.to_owned(), _open: open })
    }

    /// Whether a client may ask about a build that does not run, because it may be about to begin.
    ///
    /// # Errors
    /// The answer to a new build while remora drains. (buildkitd would wait some seconds for the build.)
    pub(super) fn expects_builds(&self, client: &Arrival) -> Result<(), Status> {
        if client.may_begin(self.shutdown.draining_since()) { Ok(()) } else { Err(Status::unavailable(REFUSAL)) }
    }

    /// Remora now stands in this session, where a build's cache can go through it.
    pub(super) fn join(self: &Arc<Self>, session: &str) -> JoinedSession {
        self.sessions.send_modify(|sessions| sessions.entry(session.to_owned()).or_default().joined += 1);
        JoinedSession { admission: Arc::clone(self), session: session.to_owned() }
    }

    /// Whether remora stands in this session. A client makes its `Session` and `Solve` calls at the same time, so
    /// this waits a moment.
    pub(super) async fn wait_until_joined(&self, session: &str) -> bool {
        let mut sessions = self.sessions.subscribe();
        let joined = sessions.wait_for(|sessions| sessions.get(session).is_some_and(|session| session.joined > 0));
        tokio::time::timeout(SESSION_WAIT, joined).await.is_ok_and(|joined| joined.is_ok())
    }

    fn release(&self, session: &str, release: impl FnOnce(&mut SessionUse)) {
        self.sessions.send_if_modified(|sessions| {
            if let Some(left) = sessions.get_mut(session) {
                release(left);
                if left.calls == 0 && left.joined == 0 {
                    sessions.remove(session);
                }
            }
            // Only a joined session is waited for, so that nobody need be woken.
            false
        });
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.release(&self.session, |session| session.calls -= 1);
    }
}

impl Drop for JoinedSession {
    fn drop(&mut self) {
        self.admission.release(&self.session, |session| session.joined -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_drain_takes_the_rest_of_running_builds_and_no_new_ones() {
        let shutdown = Shutdown::default();
        let admission = Arc::new(Admission::new(shutdown.clone()));
        let early = admission.arrival();
        let solve = admission.admit("running", &early).unwrap();
        shutdown.drain();
        let late = admission.arrival();
        let session = admission.admit("running", &late).unwrap();
        assert!(admission.admit("on its way", &early).is_ok());
        assert_eq!(admission.admit("new", &late).unwrap_err().code(), tonic::Code::Unavailable);
        assert!(admission.admit("", &late).is_err());
        tokio::time::advance(LATE_STARTS).await;
        assert!(admission.admit("late", &early).is_err());
        drop(solve);
        assert!(admission.admit("running", &late).is_ok());
        drop(session);
        assert!(admission.admit("running", &late).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_is_waited_for_and_forgotten() {
        let admission = Arc::new(Admission::new(Shutdown::default()));
        assert!(!admission.wait_until_joined("session").await);
        let arrival = admission.arrival();
        let call = admission.admit("session", &arrival).unwrap();
        let wait = admission.wait_until_joined("session");
        let join = async { admission.join("session") };
        let (is_joined, joined) = tokio::join!(wait, join);
        assert!(is_joined);
        drop(call);
        assert!(admission.wait_until_joined("session").await);
        drop(joined);
        assert!(admission.sessions.borrow().is_empty());
    }
}
