//! What a build imports and exports through its session.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Mutex, PoisonError};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};

use crate::types::{Digest, Grant, ManifestName};

/// A grant for one cache entry. Its documents are the content store that buildkitd reads and writes.
#[derive(Debug)]
pub(crate) struct SessionGrant {
    /// The id that the grant is looked up by.
    pub(crate) access_key_id: String,
    /// The grant.
    pub(crate) grant: Grant,
}

/// The caches of one build.
#[derive(Default)]
pub(crate) struct SessionCaches {
    imports: Mutex<HashMap<String, Import>>,
    exports: Mutex<Vec<SessionExport>>,
}

/// The digest of the document that an import begins with, if there is a cache to import.
pub(super) type Import = Shared<BoxFuture<'static, Option<Digest>>>;

/// An export through a session: published when the build has succeeded.
#[derive(Debug, Clone)]
pub(super) struct SessionExport {
    /// Its documents hold the manifest.
    pub(super) grant: Grant,
    /// What to publish it as.
    pub(super) names: Vec<ManifestName>,
    /// Whether the build passes where publishing fails.
    pub(super) ignore_error: bool,
}

impl fmt::Debug for SessionCaches {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionCaches").field("exports", &self.exports).finish_non_exhaustive()
    }
}

impl SessionCaches {
    /// The import of a store. It is made once, however many calls ask for it; where a call goes away, the next one
    /// goes on from what was done.
    pub(super) fn import_once(&self, store: &str, import: impl FnOnce() -> BoxFuture<'static, Option<Digest>>) -> Import {
        let mut imports = self.imports.lock().unwrap_or_else(PoisonError::into_inner);
        imports.entry(store.to_owned()).or_insert_with(|| import().shared()).clone()
    }

    /// Remembers an export, to publish it at the end.
    pub(super) fn add_export(&self, export: SessionExport) {
        self.exports.lock().unwrap_or_else(PoisonError::into_inner).push(export);
    }

    /// The exports to publish at the end.
    pub(super) fn exports(&self) -> Vec<SessionExport> {
        self.exports.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}
