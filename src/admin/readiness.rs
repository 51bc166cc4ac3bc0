//! Whether builds can be served. All checks run at most once in a few seconds, each in bounded time.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use crate::shutdown::Shutdown;

/// Requests within this time get the last answer, since a check writes to the store.
const FRESH: Duration = Duration::from_secs(5);
/// A check that takes longer than this has failed.
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

type Outcome = Pin<Box<dyn Future<Output = Result<(), Fault>> + Send>>;

/// What a check has found wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Builds cannot be served.
    Fatal(String),
    /// Builds are served, but more slowly.
    Bearable(String),
}

/// One thing that must work.
pub struct Check {
    name: String,
    run: Box<dyn Fn() -> Outcome + Send + Sync>,
}

impl Check {
    /// `run` returns what is wrong, in words for operators. A check that takes too long is [`Fault::Fatal`].
    pub fn new<F>(name: impl Into<String>, run: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), Fault>> + Send + 'static,
    {
        Self { name: name.into(), run: Box::new(move || Box::pin(run())) }
    }

    async fn report(&self) -> CheckReport {
        let outcome = tokio::time::timeout(CHECK_TIMEOUT, (self.run)()).await;
        let outcome = outcome.unwrap_or_else(|_| Err(Fault::Fatal(format!("no answer in {} s", CHECK_TIMEOUT.as_secs()))));
        let (ok, bearable, cause) = match outcome {
            Ok(()) => (true, false, None),
            Err(Fault::Fatal(cause)) => (false, false, Some(cause)),
            Err(Fault::Bearable(cause)) => (false, true, Some(cause)),
        };
        CheckReport { name: self.name.clone(), ok, bearable, cause }
    }
}

impl fmt::Debug for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Check").field("name", &self.name).finish_non_exhaustive()
    }
}

/// How one check went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CheckReport {
    /// What was checked.
    pub name: String,
    /// Whether it works.
    pub ok: bool,
    /// Whether builds are served although it does not work.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub bearable: bool,
    /// Why it does not work.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cause: Option<String>,
}

/// How all checks went.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Whether every check is ok or bearable.
    pub ready: bool,
    /// Each check.
    pub checks: Vec<CheckReport>,
}

/// All checks, and the last answer.
#[derive(Debug)]
pub struct Readiness {
    checks: Vec<Check>,
    shutdown: Shutdown,
    /// Held while the checks run, so that they run once for all requests that arrive meanwhile.
    last: Mutex<Option<(Instant, Arc<Report>)>>,
}

impl Readiness {
    /// Ready when all `checks` are ok or bearable and `shutdown` is not draining.
    #[must_use]
    pub fn new(checks: Vec<Check>, shutdown: Shutdown) -> Self {
        Self { checks, shutdown, last: Mutex::default() }
    }

    /// The current answer, or one that is a few seconds old.
    pub async fn report(&self) -> Arc<Report> {
        if self.shutdown.is_draining() {
            let draining = CheckReport { name: "running".to_owned(), ok: false, bearable: false, cause: Some("draining".to_owned()) };
            return Arc::new(Report { ready: false, checks: vec![draining] });
        }
        let mut last = self.last.lock().await;
        if let Some((when, report)) = last.as_ref().filter(|(when, _)| when.elapsed() < FRESH) {
            tracing::trace!(age = ?when.elapsed(), "readiness answered from memory");
            return Arc::clone(report);
        }
        let checks = join_all(self.checks.iter().map(Check::report)).await;
        let report = Arc::new(Report { ready: checks.iter().all(|check| check.ok || check.bearable), checks });
        for failed in report.checks.iter().filter(|check| !check.ok) {
            tracing::warn!(check.name = failed.name, check.bearable = failed.bearable, cause = failed.cause, "a check fails");
        }
        *last = Some((Instant::now(), Arc::clone(&report)));
        report
    }
}
