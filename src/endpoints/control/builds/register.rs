//! The register of the builds that run.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use http::HeaderMap;

use super::build::Build;
use crate::auth::Keyring;
use crate::endpoints::control::admission::Admitted;
use crate::endpoints::control::options::BUILD_ID;
use crate::endpoints::control::replay::Replay;
use crate::metrics::Metrics;

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

    pub(super) fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    pub(super) fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    /// A build of this reference is over.
    pub(super) fn end(&self, reference: &str) {
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
