//! What a caller may do: the part of a grant that decides about access, and nothing else.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::{Denied, Right, Rights};
use crate::types::{Digest, ManifestName, Scope};

/// What a caller may do in one scope. Cheap to clone; clones share the blobs that were disclosed.
///
/// Who the caller is (a principal) will be a field here once callers have identities.
#[derive(Clone, Debug)]
pub struct Permissions {
    scope: Arc<Scope>,
    rights: Rights,
    /// `None`: any manifest of the scope.
    names: Option<Arc<[ManifestName]>>,
    /// Where this is set, only blobs that a manifest served under this grant named may be read: knowing a digest is not
    /// access.
    disclosed: Option<Arc<Mutex<HashSet<Digest>>>>,
    sub_prefixes: bool,
}

impl Permissions {
    /// `rights` on everything in `scope`.
    pub(super) fn new(scope: Scope, rights: Rights) -> Self {
        Self { scope: Arc::new(scope), rights, names: None, disclosed: None, sub_prefixes: false }
    }

    pub(super) fn restrict_to_names(&mut self, names: &[ManifestName]) {
        self.names = Some(names.into());
    }

    pub(super) fn restrict_to_disclosed_blobs(&mut self) {
        self.disclosed = Some(Arc::default());
    }

    pub(super) fn allow_sub_prefixes(&mut self) {
        self.sub_prefixes = true;
    }

    /// Where they hold.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The manifests that they are restricted to. `None`: every manifest of the scope.
    #[must_use]
    pub fn names(&self) -> Option<&[ManifestName]> {
        self.names.as_deref()
    }

    /// The manifest that a build imports with them.
    #[must_use]
    pub fn imported(&self) -> Option<&ManifestName> {
        self.disclosed.as_ref()?;
        self.names()?.first()
    }

    /// Whether they also hold for prefixes below the scope's own.
    #[must_use]
    pub fn reaches_sub_prefixes(&self) -> bool {
        self.sub_prefixes
    }

    /// The same permissions for a longer prefix, where they reach that far.
    ///
    /// # Errors
    /// [`Denied`] where they hold for their own prefix alone or the prefix is not valid.
    pub fn below(&self, more: &str) -> Result<Self, Denied> {
        if more.is_empty() {
            return Ok(self.clone());
        }
        if !self.sub_prefixes {
            return Err(Denied::new(format!("this grant is for {} alone", self.scope)));
        }
        let scope = self.scope.below(more).map_err(|invalid| Denied::new(invalid.to_string()))?;
        Ok(Self { scope: Arc::new(scope), ..self.clone() })
    }

    /// Checks a right on the scope as a whole, to list it for example.
    ///
    /// # Errors
    /// [`Denied`] without the right.
    pub fn check(&self, right: Right) -> Result<(), Denied> {
        if self.rights.allows(right) { Ok(()) } else { Err(Denied::new(format!("this grant has no {right:?} right on {}", self.scope))) }
    }

    /// Checks a right on a manifest.
    ///
    /// # Errors
    /// [`Denied`] without the right, for a manifest that is not among the names, or for one whose key is no manifest's.
    pub fn check_manifest(&self, right: Right, name: &ManifestName) -> Result<(), Denied> {
        self.check(right)?;
        self.scope.check_manifest_key(name).map_err(|invalid| Denied::new(invalid.to_string()))?;
        match &self.names {
            Some(names) if !names.contains(name) => Err(Denied::new(format!("this grant is not for manifest {name}"))),
            _ => Ok(()),
        }
    }

    /// Checks a right on a blob.
    ///
    /// # Errors
    /// [`Denied`] without the right, or for a blob that was not disclosed.
    pub fn check_blob(&self, right: Right, digest: &Digest) -> Result<(), Denied> {
        self.check(right)?;
        match self.disclosed() {
            Some(disclosed) if !disclosed.contains(digest) => {
                Err(Denied::new(format!("no manifest that was read under this grant names blob {digest}")))
            }
            _ => Ok(()),
        }
    }

    /// Whether the blob was disclosed. Always `false` where every blob may be read, as nobody keeps count then.
    #[must_use]
    pub fn was_promised(&self, digest: &Digest) -> bool {
        self.disclosed().is_some_and(|disclosed| disclosed.contains(digest))
    }

    /// Records blobs that a served manifest names. From now on they may be read.
    pub fn disclose(&self, digests: impl IntoIterator<Item = Digest>) {
        if let Some(mut disclosed) = self.disclosed() {
            disclosed.extend(digests);
        }
    }

    fn disclosed(&self) -> Option<MutexGuard<'_, HashSet<Digest>>> {
        Some(self.disclosed.as_ref()?.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
