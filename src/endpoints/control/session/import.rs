//! The import of a cache through a session.

use super::oci;
use crate::cache::{self, Cache};
use crate::endpoints::control::options::Target;
use crate::types::{Digest, Grant};

/// Reads a manifest into the grant's documents, in its OCI form. `None`: the build has no cache.
pub(super) async fn import(cache: Cache, grant: Grant, target: Target) -> Option<Digest> {
    let name = target.names.first()?;
    let manifest = match cache.manifests().import(&grant, name).await {
        Ok(manifest) => manifest,
        Err(cache::Error::NotFound(_)) => {
            tracing::debug!(manifest.name = %name, "there is no manifest {name} in {} yet", target.scope);
            return None;
        }
        Err(error) => {
            tracing::warn!(manifest.name = %name, %error, "cannot import {name} from {}: {error}", target.scope);
            return None;
        }
    };
    // On a thread of its own: some MiB take their time, and the deadline of the call must be able to end the wait.
    let documents = tokio::task::spawn_blocking(move || oci::documents(manifest.config)).await.ok()?;
    let kept = documents.map(|documents| {
        let digest = Digest::of(documents.last()?);
        let held = grant.documents()?;
        documents.into_iter().all(|document| held.insert(document)).then_some(digest)
    });
    match kept {
        Ok(Some(digest)) => Some(digest),
        Ok(None) => {
            tracing::warn!(manifest.name = %name, "cannot import {name}: its OCI form is larger than limits.max_manifest_bytes allows");
            None
        }
        Err(malformed) => {
            tracing::warn!(manifest.name = %name, error = %malformed, "cannot import {name}: {malformed}");
            None
        }
    }
}
