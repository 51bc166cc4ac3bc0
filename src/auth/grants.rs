//! The grants of builds: which are valid, when they end, and which have ended.
//!
//! No call scans all grants, since there may be thousands: those of one build are found by the build, grants end in the
//! order in which they were given their end, and ended ids are looked up in a set.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Instant;

use super::builds::BuildId;
use super::credential::{Credential, IssuedGrant, Purpose};
use crate::types::{Documents, ManifestName};

/// Ended grants whose ids are remembered, so that a late user is told "ended" and not "unknown".
const ENDED_REMEMBERED: usize = 10_000;

/// A grant that was issued to a build.
#[derive(Debug)]
pub(super) struct BuildGrant {
    pub(super) credential: Credential,
    pub(super) issued: IssuedGrant,
    pub(super) purpose: Purpose,
    pub(super) names: Vec<ManifestName>,
}

/// All grants of builds, by access key id.
#[derive(Debug, Default)]
pub(super) struct Grants {
    valid: HashMap<String, BuildGrant>,
    /// The ids of each build's grants that have no end yet.
    of_build: HashMap<BuildId, Vec<String>>,
    /// When which grants stop being valid; the earliest first.
    ending: VecDeque<(Instant, String)>,
    ended: EndedIds,
}

/// The ids of the grants that ended last, the oldest first, and the same ids as a set.
#[derive(Debug, Default)]
struct EndedIds {
    order: VecDeque<String>,
    known: HashSet<String>,
}

impl Grants {
    pub(super) fn insert(&mut self, build: BuildId, grant: BuildGrant) {
        let id = grant.issued.access_key_id.clone();
        self.of_build.entry(build).or_default().push(id.clone());
        self.valid.insert(id, grant);
    }

    pub(super) fn get(&self, id: &str) -> Option<&BuildGrant> {
        self.valid.get(id)
    }

    /// The grants of a build that have no end yet.
    pub(super) fn of_build(&self, build: BuildId) -> impl Iterator<Item = &BuildGrant> {
        self.of_build.get(&build).into_iter().flatten().filter_map(|id| self.valid.get(id))
    }

    /// Drops the documents of a build.
    pub(super) fn end_documents(&self, build: BuildId) {
        self.of_build(build).filter_map(|grant| grant.credential.grant.documents()).for_each(Documents::end);
    }

    /// Ends the grants of a build at `at`, which is no earlier than the end of those that were ended before.
    pub(super) fn end_at(&mut self, build: BuildId, at: Instant) {
        for id in self.of_build.remove(&build).unwrap_or_default() {
            if let Some(grant) = self.valid.get(&id) {
                grant.credential.over.cancel();
            }
            self.ending.push_back((at, id));
        }
    }

    /// Removes the grants whose end has come.
    pub(super) fn remove_ended(&mut self, now: Instant) {
        while let Some((_, id)) = self.ending.pop_front_if(|(at, _)| *at <= now) {
            self.valid.remove(&id);
            self.ended.remember(id);
        }
    }

    /// Whether the id is that of a grant that has ended, as far as that is remembered.
    pub(super) fn has_ended(&self, id: &str) -> bool {
        self.ended.known.contains(id)
    }

    pub(super) fn len(&self) -> usize {
        self.valid.len()
    }
}

impl EndedIds {
    fn remember(&mut self, id: String) {
        self.order.push_back(id.clone());
        self.known.insert(id);
        if self.order.len() > ENDED_REMEMBERED
            && let Some(oldest) = self.order.pop_front()
        {
            self.known.remove(&oldest);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::builds::Builds;
    use crate::types::{Grant, Scope};
    use std::time::Duration;
    use tokio_util::sync::CancellationToken;

    fn grant(id: &str) -> BuildGrant {
        let grant = Grant::operator(Scope::new("bucket".parse().unwrap(), "").unwrap());
        let credential = Credential { secret_access_key: "secret".into(), grant, over: CancellationToken::new() };
        let issued = IssuedGrant { access_key_id: id.to_owned(), secret_access_key: "secret".to_owned() };
        BuildGrant { credential, issued, purpose: Purpose::Import, names: Vec::new() }
    }

    #[test]
    fn grants_end_in_order_and_with_their_build() {
        let (mut builds, mut grants) = (Builds::default(), Grants::default());
        let first = builds.begin("first");
        let second = builds.begin("second");
        for id in ["a", "b"] {
            grants.insert(first, grant(id));
        }
        grants.insert(second, grant("c"));
        let of_first: Vec<&str> = grants.of_build(first).map(|grant| grant.issued.access_key_id.as_str()).collect();
        assert_eq!(of_first, ["a", "b"]);

        let now = Instant::now();
        let later = now + Duration::from_secs(60);
        grants.end_at(first, now);
        grants.end_at(second, later);
        assert_eq!((grants.of_build(first).count(), grants.len()), (0, 3), "an ending grant is valid until its end");
        assert!(grants.get("c").is_some_and(|grant| grant.credential.over.is_cancelled()));
        grants.remove_ended(now);
        assert!(grants.get("a").is_none() && grants.has_ended("a") && grants.has_ended("b"));
        assert!(grants.get("c").is_some() && !grants.has_ended("c"));
        grants.remove_ended(later);
        assert!(grants.has_ended("c") && grants.len() == 0);
    }

    #[test]
    fn only_the_last_ended_ids_are_remembered() {
        let (mut builds, mut grants) = (Builds::default(), Grants::default());
        let (build, now) = (builds.begin("build"), Instant::now());
        for number in 0..=ENDED_REMEMBERED {
            grants.insert(build, grant(&number.to_string()));
        }
        grants.end_at(build, now);
        grants.remove_ended(now);
        assert!(!grants.has_ended("0") && grants.has_ended("1") && grants.has_ended(&ENDED_REMEMBERED.to_string()));
        assert_eq!((grants.ended.order.len(), grants.ended.known.len()), (ENDED_REMEMBERED, ENDED_REMEMBERED));
    }
}
