//! Grants: what a caller may do, and the build that the caller does it for. Every call of the cache carries one.
//!
//! The two are apart: [`Permissions`] decide about access, the [`BuildContext`] says how the cache serves the build.

mod build_context;
mod permissions;
mod rights;

use std::sync::Arc;

pub use build_context::BuildContext;
pub use permissions::Permissions;
pub use rights::{Denied, Right, Rights};

use super::{Digest, Documents, Durability, Losses, ManifestName, Promises, Scope, Usage};

/// What a caller may do in one scope, and the build that it is for. Cheap to clone; clones share what they learn.
#[derive(Clone, Debug)]
pub struct Grant {
    permissions: Permissions,
    build: BuildContext,
}

/// Narrows a grant before it is handed out.
#[derive(Debug)]
pub struct GrantBuilder(Grant);

impl GrantBuilder {
    /// Restricts it to these manifests.
    #[must_use]
    pub fn names(mut self, names: &[ManifestName]) -> Self {
        self.0.permissions.restrict_to_names(names);
        self
    }

    /// Only blobs that a manifest read under this grant names may be read.
    #[must_use]
    pub fn disclosed_blobs_only(mut self) -> Self {
        self.0.permissions.restrict_to_disclosed_blobs();
        self
    }

    /// It also holds for prefixes that are longer than the scope's.
    #[must_use]
    pub fn sub_prefixes(mut self) -> Self {
        self.0.permissions.allow_sub_prefixes();
        self
    }

    /// JSON documents are kept in `documents` and not in the store.
    #[must_use]
    pub fn documents(mut self, documents: Arc<Documents>) -> Self {
        self.0.build.set_documents(documents);
        self
    }

    /// An outage of the store is a loss and no error. `promises` are those that were made to the grant's build.
    #[must_use]
    pub fn losses(mut self, promises: Arc<Promises>) -> Self {
        self.0.build.tolerate_losses(promises);
        self
    }

    /// A write is acknowledged when it has got this far.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.0.build.set_durability(durability);
        self
    }

    /// Counts into `usage`.
    #[must_use]
    pub fn usage(mut self, usage: Arc<Usage>) -> Self {
        self.0.build.set_usage(usage);
        self
    }

    /// The grant.
    #[must_use]
    pub fn build(self) -> Grant {
        self.0
    }
}

impl Grant {
    /// Begins a grant of `rights` on everything in `scope`.
    #[must_use]
    pub fn builder(scope: Scope, rights: Rights) -> GrantBuilder {
        GrantBuilder(Self { permissions: Permissions::new(scope, rights), build: BuildContext::default() })
    }

    /// A grant of everything in `scope`: for the operator's own commands.
    #[must_use]
    pub fn operator(scope: Scope) -> Self {
        Self::builder(scope, Rights::ALL).sub_prefixes().build()
    }

    /// The same grant for a longer prefix, where it reaches that far.
    ///
    /// # Errors
    /// See [`Permissions::below`].
    pub fn below(&self, more: &str) -> Result<Self, Denied> {
        Ok(Self { permissions: self.permissions.below(more)?, build: self.build.clone() })
    }
}

/// What the caller may do: see [`Permissions`].
impl Grant {
    /// See [`Permissions::scope`].
    #[must_use]
    pub fn scope(&self) -> &Scope {
        self.permissions.scope()
    }

    /// See [`Permissions::names`].
    #[must_use]
    pub fn names(&self) -> Option<&[ManifestName]> {
        self.permissions.names()
    }

    /// See [`Permissions::imported`].
    #[must_use]
    pub fn imported(&self) -> Option<&ManifestName> {
        self.permissions.imported()
    }

    /// See [`Permissions::reaches_sub_prefixes`].
    #[must_use]
    pub fn reaches_sub_prefixes(&self) -> bool {
        self.permissions.reaches_sub_prefixes()
    }

    /// See [`Permissions::check`].
    ///
    /// # Errors
    /// [`Denied`] without the right.
    pub fn check(&self, right: Right) -> Result<(), Denied> {
        self.permissions.check(right)
    }

    /// See [`Permissions::check_manifest`].
    ///
    /// # Errors
    /// [`Denied`] without the right, or for a manifest that the grant does not name.
    pub fn check_manifest(&self, right: Right, name: &ManifestName) -> Result<(), Denied> {
        self.permissions.check_manifest(right, name)
    }

    /// See [`Permissions::check_blob`].
    ///
    /// # Errors
    /// [`Denied`] without the right, or for a blob that no manifest read under this grant named.
    pub fn check_blob(&self, right: Right, digest: &Digest) -> Result<(), Denied> {
        self.permissions.check_blob(right, digest)
    }

    /// See [`Permissions::was_promised`].
    #[must_use]
    pub fn was_promised(&self, digest: &Digest) -> bool {
        self.permissions.was_promised(digest)
    }

    /// See [`Permissions::disclose`].
    pub fn disclose(&self, digests: impl IntoIterator<Item = Digest>) {
        self.permissions.disclose(digests);
    }
}

/// The build that the caller does it for: see [`BuildContext`].
impl Grant {
    /// See [`BuildContext::is_session`].
    #[must_use]
    pub fn is_session(&self) -> bool {
        self.build.is_session()
    }

    /// See [`BuildContext::documents`].
    #[must_use]
    pub fn documents(&self) -> Option<&Documents> {
        self.build.documents()
    }

    /// See [`BuildContext::losses`].
    #[must_use]
    pub fn losses(&self) -> Option<&Losses> {
        self.build.losses()
    }

    /// See [`BuildContext::durability`].
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.build.durability()
    }

    /// See [`BuildContext::usage`].
    #[must_use]
    pub fn usage(&self) -> &Usage {
        self.build.usage()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope() -> Scope {
        Scope::new("bucket".parse().unwrap(), "team/").unwrap()
    }

    #[test]
    fn an_import_grant_reads_only_what_its_manifest_names() {
        let app: ManifestName = "app".parse().unwrap();
        let grant = Grant::builder(scope(), Rights::IMPORT).names(std::slice::from_ref(&app)).disclosed_blobs_only().build();
        let blob = Digest::of(b"layer");
        assert!(grant.check_manifest(Right::Read, &app).is_ok());
        assert!(grant.check_manifest(Right::Read, &"other".parse().unwrap()).is_err());
        assert!(grant.check_manifest(Right::Write, &app).is_err());
        assert!(grant.check_blob(Right::Read, &blob).is_err() && !grant.was_promised(&blob));
        grant.clone().disclose([blob]);
        assert!(grant.was_promised(&blob) && !Grant::operator(scope()).was_promised(&blob));
        assert!(grant.check_blob(Right::Read, &blob).is_ok());
        assert!(grant.check_blob(Right::Write, &blob).is_err());
    }

    #[test]
    fn only_an_operator_reaches_longer_prefixes() {
        let build = Grant::builder(scope(), Rights::ALL).build();
        assert!(build.below("").is_ok());
        assert!(build.below("x/").is_err());
        let below = Grant::operator(scope()).below("x/").unwrap();
        assert_eq!(below.scope().prefix(), "team/x/");
    }
}
