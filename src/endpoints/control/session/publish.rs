//! Publishes what a build exported through its session.

use std::future::ready;

use bytes::Bytes;
use http::Response;
use tonic::{Code, Status};

use super::caches::{SessionCaches, SessionExport};
use super::oci::{MalformedOci, OciForm};
use crate::cache::{self, Cache, Condition, outage};
use crate::endpoints::control::grpc::wire::{self, Edit, Malformed};
use crate::endpoints::control::grpc::{message, status};
use crate::endpoints::control::proxy::{Proxy, ResponseBody};
use crate::metrics::Metrics;
use crate::types::{Digest, Documents, Grant, ManifestName};

/// The key of an exporter's answer that names the manifest.
const ANSWER_KEY: &[u8] = b"cache.manifest";

/// Publishes exports.
#[derive(Debug)]
pub(crate) struct Publisher {
    cache: Cache,
    proxy: Proxy,
    metrics: Metrics,
}

impl Publisher {
    /// Manifests are published in `cache`; answers are read through `proxy`.
    pub(crate) fn new(cache: Cache, proxy: Proxy, metrics: Metrics) -> Self {
        Self { cache, proxy, metrics }
    }

    /// Publishes what a build that ended with `response` exported, where it has succeeded. The client learns of the
    /// build's end after that, and nothing of the documents.
    pub(crate) async fn publish(&self, caches: &SessionCaches, response: Response<ResponseBody>) -> Response<ResponseBody> {
        let exports = caches.exports();
        if exports.is_empty() {
            return response;
        }
        let answer = match self.proxy.read_answer(response).await {
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

    async fn publish_export(&self, export: &SessionExport) -> Result<(), PublishError> {
        if outage::is_dropped(&export.grant) {
            export.names.iter().for_each(|_| self.metrics.export_dropped());
            return Ok(());
        }
        let documents = export.grant.documents().map(Documents::all).unwrap_or_default();
        for manifest in documents {
            let Ok(digest) = OciForm::config_digest(&manifest) else { continue };
            let Some(config) = export.grant.documents().and_then(|documents| documents.get(&digest)) else { continue };
            let json = OciForm { manifest, config }.into_config()?.to_json();
            for name in &export.names {
                let document = ready(Ok(json.clone().into()));
                self.cache.tolerant().publish(&export.grant, name, document, Condition::None).await?;
            }
        }
        Ok(())
    }
}

/// Why an export was not published.
#[derive(Debug, thiserror::Error)]
enum PublishError {
    #[error(transparent)]
    Oci(#[from] MalformedOci),
    #[error(transparent)]
    Cache(#[from] cache::Error),
}

fn joined(names: &[ManifestName]) -> String {
    names.iter().map(ManifestName::as_str).collect::<Vec<_>>().join(", ")
}

/// A `SolveResponse` without the entries of `ExporterResponse` (1) that name documents of these exports. The documents
/// of an export that is dropped were not kept, so that it is not known which they were: where there is such an export,
/// every entry that names a manifest goes.
fn without_documents(answer: &[u8], exports: &[SessionExport]) -> Option<Bytes> {
    let is_ours = |json: &[u8]| {
        let named: Option<Digest> =
            serde_json::from_slice::<serde_json::Value>(json).ok().and_then(|descriptor| descriptor.get("digest")?.as_str()?.parse().ok());
        named.is_some_and(|digest| {
            let holds = |grant: &Grant| grant.documents().is_some_and(|documents| documents.get(&digest).is_some());
            exports.iter().any(|export| outage::is_dropped(&export.grant) || holds(&export.grant))
        })
    };
    let edited = wire::edit(answer, |field| match (field.number, field.payload) {
        (1, Some(entry)) => {
            let mut key = &[][..];
            let mut value = &[][..];
            for field in wire::fields(entry) {
                let field = field?;
                match (field.number, field.payload) {
                    (1, Some(payload)) => key = payload,
                    (2, Some(payload)) => value = payload,
                    _ => {}
                }
            }
            Ok::<_, Malformed>(if key == ANSWER_KEY && is_ours(value) { Edit::Remove } else { Edit::Keep })
        }
        _ => Ok(Edit::Keep),
    });
    message::frame(&edited.ok()??)
}
