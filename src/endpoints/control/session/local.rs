//! The session transport: the entry becomes `type=local`, whose content store BuildKit asks through the
//! build's session (see `session`).
//!
//! `dest` and `src` name the store by the id of a grant made for this build: who was not given it cannot
//! guess it, and whichever connection a call comes by, it is known what it may do. BuildKit's local
//! importer wants the digest of an OCI manifest, so the manifest is read when the build begins; its
//! exporter leaves one in the grant's documents, which is published when the build has succeeded
//! (`cache/remotecache/local`, BuildKit v0.33).

use futures_util::FutureExt as _;
use http::Response;
use tonic::{Code, Status};

use super::oci;
use super::oci::OciForm;
use crate::auth::Purpose;
use crate::cache::{self, Cache, Condition, outage};
use crate::endpoints::control::Control;
use crate::endpoints::control::builds::build::{Build, SessionExport};
use crate::endpoints::control::grpc::message;
use crate::endpoints::control::grpc::status;
use crate::endpoints::control::grpc::wire;
use crate::endpoints::control::grpc::wire::{Edit, Malformed};
use crate::endpoints::control::options::attrs::{Attrs, Target};
use crate::endpoints::control::options::rewrite::Entry;
use crate::endpoints::control::proxy::body::ResponseBody;
use crate::endpoints::control::proxy::forward::Answer;
use crate::types::{Digest, Grant, ManifestName};

/// What the attributes of `type=s3` say that `type=local` has no use for, or that buildkitd must not see.
const DROPPED: [&str; 18] = [
    "access_key_id",
    "secret_access_key",
    "session_token",
    "endpoint_url",
    "use_path_style",
    "bucket",
    "region",
    "name",
    "prefix",
    "blobs_prefix",
    "manifests_prefix",
    "touch_refresh",
    "upload_parallelism",
    "retry_mode",
    "retry_max_attempts",
    "disable_accept_encoding",
    "durability",
    "src",
];
/// What our store ids begin with, behind BuildKit's own `local:`.
const STORE_PREFIX: &str = "remora-";
/// The key of an exporter's answer that names the manifest.
const ANSWER_KEY: &[u8] = b"cache.manifest";

/// The id of the access key that a store id stands for, if it is one of ours.
pub(crate) fn access_key_id(store_id: &str) -> Option<&str> {
    store_id.strip_prefix("local:")?.strip_prefix(STORE_PREFIX)
}

impl Control {
    /// What a `type=s3` entry of a build becomes.
    pub(crate) async fn localized(&self, build: &Build, purpose: Purpose, given: &Attrs, target: &Target) -> Option<Entry> {
        let (store, grant) = build.session_grant(purpose, target, self.cache.settings().max_manifest_bytes.saturating_mul(2))?;
        let store = format!("{STORE_PREFIX}{store}");
        let attrs = match purpose {
            Purpose::Export => {
                let ignore_error =
                    given.get("ignore-error").is_some_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"));
                build.exports_through_session(SessionExport { grant, names: target.names.clone(), ignore_error });
                let mut attrs = given.clone();
                attrs.retain(|key, _| !DROPPED.contains(&key.as_str()));
                attrs.insert("dest".to_owned(), store);
                attrs
            }
            Purpose::Import => {
                let import = || import(self.cache.clone(), grant, target.clone()).boxed();
                let digest = build.imported_once(&store, import).await?;
                Attrs::from([("src".to_owned(), store), ("digest".to_owned(), digest.to_string())])
            }
        };
        Some(Entry { kind: "local", attrs })
    }

    /// Publishes what a build exported, when it has succeeded; the client learns of the build's end after
    /// that, and nothing of the documents.
    pub(crate) async fn publish(&self, build: &Build, response: Response<ResponseBody>) -> Response<ResponseBody> {
        let exports = build.session_exports();
        if exports.is_empty() {
            return response;
        }
        let answer = match Answer::read(response, self.config.max_message_bytes).await {
            Ok(answer) => answer,
            Err(broken) => return status::response(broken),
        };
        if answer.code() != Some(Code::Ok) {
            return answer.into_response();
        }
        for export in &exports {
            if let Err(error) = self.publish_export(export).await {
                let names = joined(&export.names);
                if !export.ignore_error {
                    return status::response(Status::unknown(format!("exporting cache {names} through remora: {error}")));
                }
                tracing::warn!(%error, "exporting cache {names} failed, and the build ignores it: {error}");
            }
        }
        match answer.message().and_then(|message| without_documents(message, &exports)) {
            Some(edited) => answer.with_message(edited).into_response(),
            None => answer.into_response(),
        }
    }

    async fn publish_export(&self, export: &SessionExport) -> Result<(), Problem> {
        if outage::is_dropped(&export.grant) {
            export.names.iter().for_each(|_| self.metrics.export_dropped());
            return Ok(());
        }
        let documents = export.grant.documents().map(crate::types::Documents::all).unwrap_or_default();
        for manifest in documents {
            let Ok(digest) = OciForm::config_digest(&manifest) else { continue };
            let Some(config) = export.grant.documents().and_then(|documents| documents.get(&digest)) else { continue };
            let json = OciForm { manifest, config }.into_config()?.to_json();
            for name in &export.names {
                let put = self.cache.put_manifest(&export.grant, name, json.clone().into(), Condition::None);
                if outage::unless_dropped(&export.grant, put).await?.is_none() {
                    self.metrics.export_dropped();
                }
            }
        }
        Ok(())
    }
}

/// Reads a manifest into the grant's documents, in its OCI form. `None`: the build has no cache.
async fn import(cache: Cache, grant: Grant, target: Target) -> Option<Digest> {
    let name = target.names.first()?;
    let manifest = match cache.import_manifest(&grant, name).await {
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
    // Some MiB take their time, in which the deadline of the call must be able to end it.
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

#[derive(Debug, thiserror::Error)]
enum Problem {
    #[error(transparent)]
    Oci(#[from] oci::MalformedOci),
    #[error(transparent)]
    Cache(#[from] cache::Error),
}

fn joined(names: &[ManifestName]) -> String {
    names.iter().map(ManifestName::as_str).collect::<Vec<_>>().join(", ")
}

/// A `SolveResponse` without the entries of `ExporterResponse` (1) that name our documents. Those of an
/// export that is dropped nobody has kept: whatever is named beside it then goes too.
fn without_documents(answer: &[u8], exports: &[SessionExport]) -> Option<bytes::Bytes> {
    let ours = |json: &[u8]| {
        let named: Option<Digest> =
            serde_json::from_slice::<serde_json::Value>(json).ok().and_then(|descriptor| descriptor.get("digest")?.as_str()?.parse().ok());
        named.is_some_and(|digest| {
            let holds = |grant: &Grant| grant.documents().is_some_and(|documents| documents.get(&digest).is_some());
            exports.iter().any(|export| outage::is_dropped(&export.grant) || holds(&export.grant))
        })
    };
    let edited = wire::edit(answer, |field| match (field.number, field.payload) {
        (1, Some(entry)) => {
            let (mut key, mut value) = (&[][..], &[][..]);
            for field in wire::fields(entry) {
                let field = field?;
                match (field.number, field.payload) {
                    (1, Some(payload)) => key = payload,
                    (2, Some(payload)) => value = payload,
                    _ => {}
                }
            }
            Ok::<_, Malformed>(if key == ANSWER_KEY && ours(value) { Edit::Remove } else { Edit::Keep })
        }
        _ => Ok(Edit::Keep),
    });
    message::frame(&edited.ok()??)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_store_ids_are_ours() {
        assert_eq!(access_key_id("local:remora-RMRAx"), Some("RMRAx"));
        for foreign in ["local:/tmp/cache", "remora-RMRAx", "oci:remora-x", ""] {
            assert_eq!(access_key_id(foreign), None, "{foreign}");
        }
    }
}
