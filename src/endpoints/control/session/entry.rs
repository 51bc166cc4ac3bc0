//! The `type=local` entry that takes the place of a `type=s3` one.

use futures_util::FutureExt as _;

use super::caches::{SessionCaches, SessionExport, SessionGrant};
use super::import::import;
use crate::auth::Purpose;
use crate::cache::Cache;
use crate::endpoints::control::options::{Attrs, CacheEntry, Target};

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
/// What the ids of remora's content stores begin with, behind BuildKit's own `local:`.
const STORE_PREFIX: &str = "remora-";

/// The id of the access key that a store id stands for. `None`: the store is not remora's.
pub(super) fn access_key_id(store_id: &str) -> Option<&str> {
    store_id.strip_prefix("local:")?.strip_prefix(STORE_PREFIX)
}

/// Makes the entries for sessions.
#[derive(Debug)]
pub(crate) struct SessionEntries {
    cache: Cache,
}

impl SessionEntries {
    /// Imports are read from `cache`.
    pub(crate) fn new(cache: Cache) -> Self {
        Self { cache }
    }

    /// Bytes of documents that one entry may hold: a manifest, and its OCI form beside it.
    pub(crate) fn max_document_bytes(&self) -> u64 {
        self.cache.settings().max_manifest_bytes.saturating_mul(2)
    }

    /// What a `type=s3` entry of a build becomes, with a grant made for it. `None`: it is taken out.
    pub(crate) async fn entry(
        &self,
        caches: &SessionCaches,
        SessionGrant { access_key_id, grant }: SessionGrant,
        purpose: Purpose,
        given: &Attrs,
        target: &Target,
    ) -> Option<CacheEntry> {
        let store = format!("{STORE_PREFIX}{access_key_id}");
        let attrs = match purpose {
            Purpose::Export => {
                let ignore_error =
                    given.get("ignore-error").is_some_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True"));
                caches.add_export(SessionExport { grant, names: target.names.clone(), ignore_error });
                let mut attrs = given.clone();
                attrs.retain(|key, _| !DROPPED.contains(&key.as_str()));
                attrs.insert("dest".to_owned(), store);
                attrs
            }
            Purpose::Import => {
                let import = || import(self.cache.clone(), grant, target.clone()).boxed();
                let digest = caches.import_once(&store, import).await?;
                Attrs::from([("src".to_owned(), store), ("digest".to_owned(), digest.to_string())])
            }
        };
        Some(CacheEntry { kind: "local", attrs })
    }
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
