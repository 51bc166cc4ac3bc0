//! The builds that run, and the register that they are found in. The two stand together: a build takes itself out of the
//! register when it ends.

use std::collections::HashMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Instant;

use http::HeaderMap;
use tokio::sync::OnceCell;
use tonic::Code;

use super::summary::{BuildRecord, summary};
use crate::auth::{BuildGuard, GrantRequest, IssuedGrant, Keyring};
use crate::endpoints::control::admission::Admitted;
use crate::endpoints::control::options::BUILD_ID;
use crate::endpoints::control::replay::Replay;
use crate::endpoints::control::session::{SessionCaches, SessionGrant};
use crate::endpoints::control::transports::Route;
use crate::metrics::{Metrics, Transport};
use crate::types::Usage;

/// All builds that run now.
#[derive(Debug)]
pub(crate) struct Builds {
    keyring: Keyring,
    metrics: Metrics,
    running: Mutex<HashMap<String, Weak<Build>>>,
}

impl Builds {
    /// Grants of builds come from `keyring`.
    pub(crate) fn new(keyring: Keyring, metrics: Metrics) -> Self {
        Self { keyring, metrics, running: Mutex::default() }
    }

    /// A build begins. Every build is registered, with or without cache options: its later gateway calls may carry
    /// some where this one has none, and it may share steps with builds beside it.
    pub(crate) fn begin(self: &Arc<Self>, reference: &str, session: &str, admitted: Admitted) -> Arc<Build> {
        let build = Arc::new(Build::begin(Arc::clone(self), reference, session, admitted));
        self.metrics.builds().change_running(1);
        self.running().insert(reference.to_owned(), Arc::downgrade(&build));
        build
    }

    /// The running build of a reference.
    pub(crate) fn find(&self, reference: &str) -> Option<Arc<Build>> {
        self.running().get(reference)?.upgrade()
    }

    /// The running build that a gateway call belongs to.
    pub(crate) fn of_gateway_call(&self, headers: &HeaderMap) -> Option<Arc<Build>> {
        self.find(headers.get(BUILD_ID)?.to_str().ok()?)
    }

    /// The replays of all builds that run now.
    pub(crate) fn replays(&self) -> Vec<Arc<Replay>> {
        // The register is unlocked again before a build can be dropped: a build that ends takes itself out of it.
        let builds: Vec<Arc<Build>> = self.running().values().filter_map(Weak::upgrade).collect();
        builds.iter().map(|build| Arc::clone(build.replay())).collect()
    }

    /// A build of this reference is over.
    fn end(&self, reference: &str) {
        self.metrics.builds().change_running(-1);
        let mut running = self.running();
        // Another build with the same reference may have begun since.
        if running.get(reference).is_some_and(|build| build.strong_count() == 0) {
            running.remove(reference);
        }
    }

    fn running(&self) -> MutexGuard<'_, HashMap<String, Weak<Build>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A build, from its `Control/Solve` to that call's end.
#[derive(Debug)]
pub(crate) struct Build {
    reference: String,
    session: String,
    started: Instant,
    usage: Arc<Usage>,
    route: OnceCell<Route>,
    record: Mutex<BuildRecord>,
    session_caches: SessionCaches,
    replay: Arc<Replay>,
    builds: Arc<Builds>,
    _grants: BuildGuard,
    /// The last field, so that it is dropped last: the endpoints stay open until all else of the build has gone.
    _admitted: Admitted,
}

impl Build {
    fn begin(builds: Arc<Builds>, reference: &str, session: &str, admitted: Admitted) -> Self {
        let keyring = &builds.keyring;
        let grants = keyring.begin_build(reference);
        Self {
            reference: reference.to_owned(),
            session: session.to_owned(),
            started: Instant::now(),
            usage: keyring.usage(reference).unwrap_or_default(),
            route: OnceCell::new(),
            record: Mutex::default(),
            session_caches: SessionCaches::default(),
            replay: Arc::new(Replay::new(keyring.promises(reference).unwrap_or_default())),
            builds,
            _grants: grants,
            _admitted: admitted,
        }
    }

    /// The way that the build's cache takes. `choose` is awaited only once in a build.
    pub(crate) async fn route(&self, choose: impl Future<Output = Route>) -> &Route {
        let chosen = async {
            let route = choose.await;
            self.builds.metrics.builds().begun(match route {
                Route::Relay(_) => Transport::Relay,
                Route::Session => Transport::Session,
            });
            route
        };
        self.route.get_or_init(|| chosen).await
    }

    /// A grant for one of its cache entries, for the relay.
    pub(crate) fn grant(&self, request: &GrantRequest<'_>) -> Option<IssuedGrant> {
        self.record().record_use(request);
        self.builds.keyring.issue(&self.reference, request)
    }

    /// A grant for one of its cache entries, for the session transport. It has room for documents of so many bytes.
    pub(crate) fn session_grant(&self, request: &GrantRequest<'_>, max_document_bytes: u64) -> Option<SessionGrant> {
        self.record().record_use(request);
        let keyring = &self.builds.keyring;
        let issued = keyring.issue_for_session(&self.reference, request, max_document_bytes)?;
        let grant = keyring.lookup(&issued.access_key_id).ok()?.grant;
        Some(SessionGrant { access_key_id: issued.access_key_id, grant })
    }

    /// What the session transport keeps of it.
    pub(crate) fn session_caches(&self) -> &SessionCaches {
        &self.session_caches
    }

    /// Its name, by the client's choice.
    pub(crate) fn reference(&self) -> &str {
        &self.reference
    }

    /// The id of its session.
    pub(crate) fn session(&self) -> &str {
        &self.session
    }

    /// What it takes to run it again.
    pub(crate) fn replay(&self) -> &Arc<Replay> {
        &self.replay
    }

    /// Its `Control/Solve` ended, or that of its second run.
    pub(crate) fn record_code(&self, code: Code) {
        self.record().record_code(code);
    }

    fn record(&self) -> MutexGuard<'_, BuildRecord> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        self.builds.end(&self.reference);
        if self.route.initialized() {
            let usage = &self.usage;
            let summary = summary(&self.record(), usage, self.started.elapsed());
            tracing::info!(
                build.ref = %self.reference,
                build.layers_offered = usage.layers_offered(),
                build.layers_read = usage.blobs_served(),
                build.bytes_read = usage.bytes_served(),
                build.layers_written = usage.blobs_written(),
                build.bytes_written = usage.bytes_written(),
                build.layers_reused = usage.blobs_reused(),
                "build {}: {summary}",
                self.reference,
            );
        }
    }
}
