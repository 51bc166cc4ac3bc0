//! Which builds may begin. While remora drains it takes no new ones, and what a running build still calls for is
//! served.
//!
//! A build is a `Control/Solve` and a `Control/Session`, which its client makes at about the same time and in
//! either order; the id of the session is in both. So the one belongs to a running build where the other runs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;

use crate::shutdown::{Build, Shutdown};

/// For so long after the drain began, clients that were connected then may still begin a build: they could not know.
const LATE_STARTS: Duration = Duration::from_secs(5);

/// What clients of new builds are told.
const REFUSAL: &str = "remora is shutting down and takes no new builds; builds that run are finished";

/// The sessions of the builds that run.
#[derive(Debug)]
pub(crate) struct Admission {
    shutdown: Shutdown,
    /// How many calls there are of each.
    sessions: Mutex<HashMap<String, usize>>,
}

/// When a client connected, as far as it matters.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Arrival {
    before_the_drain: bool,
}

/// One of the calls that make a build. While it is there, the endpoints stay open. Clones are one and the same.
#[derive(Debug, Clone)]
pub(crate) struct Admitted(#[expect(dead_code, reason = "is let go when the last clone is dropped")] Arc<Place>);

#[derive(Debug)]
struct Place {
    admission: Arc<Admission>,
    session: String,
    _open: Build,
}

impl Arrival {
    fn may_begin(&self, draining_since: Option<Instant>) -> bool {
        self.before_the_drain && draining_since.is_none_or(|since| since + LATE_STARTS > Instant::now())
    }
}

impl Admission {
    pub(crate) fn new(shutdown: Shutdown) -> Self {
        Self { shutdown, sessions: Mutex::default() }
    }

    /// A client connects.
    pub(crate) fn arrival(&self) -> Arrival {
        Arrival { before_the_drain: !self.shutdown.is_draining() }
    }

    /// Lets in a call of the build with this session.
    ///
    /// # Errors
    /// The answer to a new build while remora drains.
    pub(crate) fn admit(self: &Arc<Self>, session: &str, client: &Arrival) -> Result<Admitted, Status> {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        let belongs = !session.is_empty() && sessions.contains_key(session);
        let begun = self.shutdown.begin_build(|draining_since| belongs || client.may_begin(draining_since));
        let open = begun.ok_or_else(|| Status::unavailable(REFUSAL))?;
        *sessions.entry(session.to_owned()).or_default() += 1;
        Ok(Admitted(Arc::new(Place { admission: Arc::clone(self), session: session.to_owned(), _open: open })))
    }

    /// Whether a client may call for a build that does not run: it may be about to begin.
    ///
    /// # Errors
    /// The answer to a new build while remora drains. (buildkitd would wait some seconds for the build.)
    pub(crate) fn expects_builds(&self, client: &Arrival) -> Result<(), Status> {
        if client.may_begin(self.shutdown.draining_since()) { Ok(()) } else { Err(Status::unavailable(REFUSAL)) }
    }

    fn leave(&self, session: &str) {
        let mut sessions = self.sessions.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(calls) = sessions.get_mut(session) {
            *calls -= 1;
            if *calls == 0 {
                sessions.remove(session);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.admission.leave(&self.session);
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
        drop(solve.clone());
        drop(solve);
        assert!(admission.admit("running", &late).is_ok());
        drop(session);
        assert!(admission.admit("running", &late).is_err());
    }
}
