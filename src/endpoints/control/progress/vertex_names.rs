//! The names that vertexes of a build's progress get.
//!
//! BuildKit takes a cache that goes through a session for a directory of the client, and says so. It is known
//! beforehand by which vertex each import and export will be shown, so that the vertex can be given the name of the
//! cache that it really is. Clients read the log of a build that is over by the same call, so the names of the last
//! builds are kept.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::vertex_digest;
use crate::endpoints::control::grpc::wire::{self, Edit, Malformed};
use crate::endpoints::control::options::{Decision, exports};
use crate::types::Digest;

/// Builds whose names are kept.
const MAX_BUILDS: usize = 1000;
/// Names that are kept of one build.
const MAX_NAMES: usize = 100;

/// The names of the vertexes of the last builds.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    builds: Mutex<VecDeque<BuildNames>>,
}

#[derive(Debug)]
struct BuildNames {
    reference: String,
    /// By the digest of the vertex.
    vertexes: HashMap<String, String>,
}

impl Progress {
    /// Names the vertexes of the cache entries that go through a build's session. `request` is the call that
    /// buildkitd gets, with the entries in it.
    pub(crate) fn name_entries(&self, reference: &str, session: &str, decisions: &[Decision], request: &[u8]) -> Result<(), Malformed> {
        for Decision { target, entry, .. } in decisions {
            let Some(entry) = entry.as_ref().filter(|entry| entry.kind == "local") else { continue };
            let Some(dest) = entry.attrs.get("dest") else {
                let name = format!("importing cache manifest from {target} through remora");
                self.name(reference, &vertex_digest::of_import(entry), name);
                continue;
            };
            if let Some(index) = exports(request)?.iter().position(|export| export.get("dest") == Some(dest)) {
                let name = format!("exporting cache to {target} through remora");
                self.name(reference, &vertex_digest::of_export(session, index), name);
            }
        }
        Ok(())
    }

    fn name(&self, reference: &str, vertex: &Digest, name: String) {
        let mut builds = self.builds();
        if !builds.iter().any(|build| build.reference == reference) {
            builds.truncate(MAX_BUILDS - 1);
            builds.push_front(BuildNames { reference: reference.to_owned(), vertexes: HashMap::new() });
        }
        if let Some(build) = builds.iter_mut().find(|build| build.reference == reference && build.vertexes.len() < MAX_NAMES) {
            build.vertexes.insert(vertex.to_string(), name);
        }
    }

    /// A `StatusResponse` with the vertexes (1) of a build named. `None`: nothing to change.
    pub(super) fn rename(&self, reference: &str, message: &[u8]) -> Option<Vec<u8>> {
        let builds = self.builds();
        let names = &builds.iter().find(|build| build.reference == reference)?.vertexes;
        let renamed = wire::edit(message, |field| match (field.number, field.payload) {
            (1, Some(vertex)) => Ok(rename_vertex(names, vertex)?.into()),
            _ => Ok::<_, Malformed>(Edit::Keep),
        });
        renamed.ok().flatten()
    }

    fn builds(&self) -> MutexGuard<'_, VecDeque<BuildNames>> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A `Vertex`: its digest (1) and its name (3).
fn rename_vertex(names: &HashMap<String, String>, vertex: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let digest = wire::last(vertex, 1)?;
    let Some(name) = std::str::from_utf8(digest).ok().and_then(|digest| names.get(digest)) else { return Ok(None) };
    wire::edit(vertex, |field| Ok(if field.number == 3 { Edit::Replace(name.clone().into_bytes()) } else { Edit::Keep }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vertex(digest: &str, name: &str) -> Vec<u8> {
        let mut vertex = vec![0x20, 0x01]; // cached
        wire::put(&mut vertex, 3, name.as_bytes());
        wire::put(&mut vertex, 1, digest.as_bytes());
        wire::put(&mut vertex, 900, b"new");
        let mut field = Vec::new();
        wire::put(&mut field, 1, &vertex);
        wire::put(&mut field, 3, b"a log line");
        field
    }

    #[test]
    fn only_the_vertexes_of_its_own_build_are_named() {
        let (progress, digest) = (Progress::default(), Digest::of(b"vertex"));
        progress.name("build", &digest, "exporting cache to s3://b/app through remora".to_owned());
        let digest = digest.to_string();
        let sent = [vertex("sha256:other", "RUN true"), vertex(&digest, "exporting cache to client directory")].concat();
        let wanted = [vertex("sha256:other", "RUN true"), vertex(&digest, "exporting cache to s3://b/app through remora")].concat();
        assert_eq!(progress.rename("build", &sent), Some(wanted));
        assert_eq!(progress.rename("another build", &sent), None);
        assert_eq!(progress.rename("build", &vertex("sha256:other", "RUN true")), None);
        assert_eq!(progress.rename("build", &sent[..sent.len() - 1]), None);
    }

    #[test]
    fn the_last_builds_are_kept() {
        let (progress, digest) = (Progress::default(), Digest::of(b"vertex"));
        let message = vertex(&digest.to_string(), "old");
        for build in 0..=MAX_BUILDS {
            progress.name(&build.to_string(), &digest, "new".to_owned());
        }
        assert_eq!(progress.rename("0", &message), None);
        assert!(progress.rename("1", &message).is_some());
        assert_eq!(progress.builds().len(), MAX_BUILDS);
    }
}
