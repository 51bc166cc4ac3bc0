//! All access keys, and how long each is valid.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rand::RngExt;
use tokio_util::sync::CancellationToken;

use super::builds::{BuildId, Builds};
use super::credential::{Credential, GrantRequest, IssuedGrant, OperatorKey, Purpose, Refused};
use super::grants::{BuildGrant, Grants};
use crate::types::{Documents, Grant, GrantBuilder, Promises, Rights, Usage};

/// All access keys. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Keyring(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    operator: HashMap<String, Credential>,
    /// How long grants stay valid after their build: BuildKit finishes lazy work a little later.
    grace: Duration,
    /// Whether builds go on without their cache when the store fails.
    tolerant: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    builds: Builds,
    grants: Grants,
}

impl Keyring {
    /// A keyring with the operator's keys. Grants of builds end `grace` after their build.
    #[must_use]
    pub fn new(operator_keys: Vec<OperatorKey>, grace: Duration) -> Self {
        Self::make(operator_keys, grace, false)
    }

    /// Like [`Keyring::new`], but builds go on without their cache when the store fails.
    #[must_use]
    pub fn tolerant(operator_keys: Vec<OperatorKey>, grace: Duration) -> Self {
        Self::make(operator_keys, grace, true)
    }

    fn make(operator_keys: Vec<OperatorKey>, grace: Duration, tolerant: bool) -> Self {
        let operator = operator_keys
            .into_iter()
            .map(|OperatorKey { access_key_id, secret_access_key, grant }| {
                (access_key_id, Credential { secret_access_key, grant, over: CancellationToken::new() })
            })
            .collect();
        Self(Arc::new(Inner { operator, grace, tolerant, state: Mutex::default() }))
    }

    /// What an access key id stands for.
    ///
    /// # Errors
    /// [`Refused`], which says whether the key was ever valid.
    pub fn lookup(&self, access_key_id: &str) -> Result<Credential, Refused> {
        if let Some(credential) = self.0.operator.get(access_key_id) {
            return Ok(credential.clone());
        }
        let state = self.state();
        match state.grants.get(access_key_id) {
            Some(grant) => Ok(grant.credential.clone()),
            None if state.grants.has_ended(access_key_id) => Err(Refused::Ended),
            None => Err(Refused::Unknown),
        }
    }

    /// Registers a build by BuildKit's ref. Its grants are valid while the guard exists, and a little longer: until every build
    /// that ran at the same time is over, too (BuildKit lets builds share steps, and with them the cache that one of them
    /// has imported), and then for the grace period.
    #[must_use]
    pub fn begin_build(&self, reference: &str) -> BuildGuard {
        let id = self.state().builds.begin(reference);
        BuildGuard { keyring: self.clone(), id }
    }

    /// A grant for a running build. The same request gets the same grant again. `None` where no such build is running.
    #[must_use]
    pub fn issue(&self, reference: &str, asked: &GrantRequest<'_>) -> Option<IssuedGrant> {
        self.issue_with(reference, asked, |grant| grant)
    }

    /// Like [`Keyring::issue`], for a build's session: the grant keeps the session's documents, up to `max_document_bytes`
    /// together.
    #[must_use]
    pub fn issue_for_session(&self, reference: &str, asked: &GrantRequest<'_>, max_document_bytes: u64) -> Option<IssuedGrant> {
        self.issue_with(reference, asked, |grant| grant.documents(Arc::new(Documents::new(max_document_bytes))))
    }

    fn issue_with(
        &self,
        reference: &str,
        asked: &GrantRequest<'_>,
        narrow: impl FnOnce(GrantBuilder) -> GrantBuilder,
    ) -> Option<IssuedGrant> {
        let &GrantRequest { purpose, scope, names, durability } = asked;
        let mut state = self.state();
        let (build, running) = state.builds.find(reference)?;
        let usage = Arc::clone(&running.usage);
        let promises = Arc::clone(&running.promises);
        let same = |issued: &&BuildGrant| {
            let grant = &issued.credential.grant;
            let alike = grant.scope() == scope && grant.durability() == durability;
            issued.purpose == purpose && issued.names == names && alike
        };
        if let Some(same) = state.grants.of_build(build).find(same) {
            return Some(same.issued.clone());
        }
        let issued = IssuedGrant { access_key_id: format!("RMRA{}", random_text(16)), secret_access_key: random_text(40) };
        let rights = match purpose {
            Purpose::Import => Rights::IMPORT,
            Purpose::Export => Rights::EXPORT,
        };
        let grant = narrow(Grant::builder(scope.clone(), rights).names(names).durability(durability).usage(usage));
        let grant = if purpose == Purpose::Import { grant.disclosed_blobs_only() } else { grant };
        let grant = if self.0.tolerant { grant.losses(promises) } else { grant };
        let credential =
            Credential { secret_access_key: issued.secret_access_key.clone().into(), grant: grant.build(), over: CancellationToken::new() };
        state.grants.insert(build, BuildGrant { credential, issued: issued.clone(), purpose, names: names.to_vec() });
        Some(issued)
    }

    /// The counters of a running build.
    #[must_use]
    pub fn usage(&self, reference: &str) -> Option<Arc<Usage>> {
        self.state().builds.find(reference).map(|(_, build)| Arc::clone(&build.usage))
    }

    /// What became of the layers that a running build was promised.
    #[must_use]
    pub fn promises(&self, reference: &str) -> Option<Arc<Promises>> {
        self.state().builds.find(reference).map(|(_, build)| Arc::clone(&build.promises))
    }

    /// How many grants of builds are valid now.
    #[must_use]
    pub fn live_grants(&self) -> usize {
        self.state().grants.len()
    }

    fn end_build(&self, id: BuildId) {
        let mut state = self.state();
        let ends = Instant::now() + self.0.grace;
        // Documents are read when the build begins, or published before it ends. Layers may still be read later.
        state.grants.end_documents(id);
        for over in state.builds.end(id) {
            state.grants.end_at(over, ends);
        }
    }

    /// The state, without the grants that have ended.
    fn state(&self) -> MutexGuard<'_, State> {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.grants.remove_ended(Instant::now());
        state
    }
}

/// A running build. When this is dropped, the build is over, and its grants end some time later.
#[derive(Debug)]
pub struct BuildGuard {
    keyring: Keyring,
    id: BuildId,
}

impl Drop for BuildGuard {
    fn drop(&mut self) {
        self.keyring.end_build(self.id);
    }
}

/// Random letters and digits; 40 of them carry 238 bits.
fn random_text(chars: usize) -> String {
    rand::rng().sample_iter(rand::distr::Alphanumeric).take(chars).map(char::from).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Durability, ManifestName, Right, Scope};

    fn scope() -> Scope {
        Scope::new("bucket".parse().unwrap(), "").unwrap()
    }

    fn names() -> Vec<ManifestName> {
        vec!["app".parse().unwrap()]
    }

    fn issue(keyring: &Keyring, reference: &str, purpose: Purpose) -> Option<IssuedGrant> {
        keyring.issue(reference, &GrantRequest { purpose, scope: &scope(), names: &names(), durability: Durability::S3 })
    }

    #[test]
    fn a_grant_is_stable_while_its_build_runs_and_ends_with_it() {
        let keyring = Keyring::new(Vec::new(), Duration::ZERO);
        assert!(issue(&keyring, "ref", Purpose::Import).is_none());
        let build = keyring.begin_build("ref");
        let first = issue(&keyring, "ref", Purpose::Import).unwrap();
        let again = issue(&keyring, "ref", Purpose::Import).unwrap();
        let export = issue(&keyring, "ref", Purpose::Export).unwrap();
        assert_eq!(first.access_key_id, again.access_key_id);
        assert_ne!(first.access_key_id, export.access_key_id);
        assert!(keyring.lookup(&first.access_key_id).unwrap().grant.check(Right::Write).is_err());
        assert!(keyring.lookup(&export.access_key_id).unwrap().grant.check(Right::Read).is_err());
        drop(build);
        assert_eq!(keyring.lookup(&first.access_key_id).unwrap_err(), Refused::Ended);
        assert_eq!(keyring.lookup("RMRAnobody").unwrap_err(), Refused::Unknown);
        assert_eq!(keyring.live_grants(), 0);
    }

    #[test]
    fn a_grant_outlives_its_build_while_a_build_beside_it_runs() {
        let keyring = Keyring::new(Vec::new(), Duration::ZERO);
        let first = keyring.begin_build("first");
        let second = keyring.begin_build("second");
        let grant = issue(&keyring, "first", Purpose::Import).unwrap();
        drop(first);
        let third = keyring.begin_build("third");
        assert!(keyring.lookup(&grant.access_key_id).is_ok());
        drop(second);
        assert_eq!(keyring.lookup(&grant.access_key_id).unwrap_err(), Refused::Ended);
        drop(third);
    }

    #[test]
    fn secrets_are_not_in_debug_output() {
        let keyring = Keyring::new(Vec::new(), Duration::ZERO);
        let _build = keyring.begin_build("ref");
        let grant = issue(&keyring, "ref", Purpose::Import).unwrap();
        assert!(!format!("{keyring:?} {grant:?}").contains(&grant.secret_access_key));
    }
}
