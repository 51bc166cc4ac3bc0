//! Grants: what a caller may do, where. Every call of the cache carries one.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use super::{Digest, Documents, Durability, Losses, ManifestName, Promises, Scope, Usage};

/// One thing that a caller may do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Right {
    /// Learn whether an object exists, its size and age.
    Exists,
    /// Read manifests and blobs.
    Read,
    /// Store blobs and publish manifests.
    Write,
    /// Delete them.
    Delete,
}

/// A set of rights.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rights {
    bits: u8,
}

impl Rights {
    /// Every right.
    pub const ALL: Self = Self { bits: 0b1111 };
    /// What an import needs.
    pub const IMPORT: Self = Self { bits: Self::bit(Right::Exists) | Self::bit(Right::Read) };
    /// What an export needs. It reads nothing back.
    pub const EXPORT: Self = Self { bits: Self::bit(Right::Exists) | Self::bit(Right::Write) };

    const fn bit(right: Right) -> u8 {
        1 << right as u8
    }

    /// The set of these rights.
    #[must_use]
    pub fn of(rights: &[Right]) -> Self {
        Self { bits: rights.iter().fold(0, |bits, &right| bits | Self::bit(right)) }
    }

    /// Whether the set has `right`.
    #[must_use]
    pub fn allows(self, right: Right) -> bool {
        self.bits & Self::bit(right) != 0
    }
}

/// A refusal: the grant does not reach that far.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("access denied: {0}")]
pub struct Denied(String);

impl Denied {
    /// A refusal with its reason, which the caller is shown.
    #[must_use]
    pub fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }
}

/// What a caller may do in one scope. Cheap to clone; clones share what they learn.
#[derive(Clone, Debug)]
pub struct Grant {
    scope: Arc<Scope>,
    rights: Rights,
    /// `None`: any manifest of the scope.
    names: Option<Arc<[ManifestName]>>,
    /// Where set, only blobs that a manifest served under this grant named may be read: knowing a
    /// digest is not access.
    disclosed: Option<Arc<Mutex<HashSet<Digest>>>>,
    sub_prefixes: bool,
    /// Set for a build's session: its documents are here and not in the store.
    documents: Option<Arc<Documents>>,
    /// Set for a build that is to go on without its cache when the store fails.
    losses: Option<Arc<Losses>>,
    durability: Durability,
    usage: Arc<Usage>,
}

/// Narrows a grant before it is handed out.
#[derive(Debug)]
pub struct GrantBuilder(Grant);

impl GrantBuilder {
    /// Only these manifests.
    #[must_use]
    pub fn names(mut self, names: &[ManifestName]) -> Self {
        self.0.names = Some(names.into());
        self
    }

    /// Only blobs that a manifest read under this grant names may be read.
    #[must_use]
    pub fn disclosed_blobs_only(mut self) -> Self {
        self.0.disclosed = Some(Arc::default());
        self
    }

    /// Longer prefixes than the scope's are reached too.
    #[must_use]
    pub fn sub_prefixes(mut self) -> Self {
        self.0.sub_prefixes = true;
        self
    }

    /// JSON documents are kept in `documents` and not in the store.
    #[must_use]
    pub fn documents(mut self, documents: Arc<Documents>) -> Self {
        self.0.documents = Some(documents);
        self
    }

    /// An outage of the store is a loss, and no error. `promises` are those to the grant's build.
    #[must_use]
    pub fn losses(mut self, promises: Arc<Promises>) -> Self {
        self.0.losses = Some(Arc::new(Losses::of(promises)));
        self
    }

    /// What is written is acknowledged when it has reached this.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.0.durability = durability;
        self
    }

    /// Counts into `usage`.
    #[must_use]
    pub fn usage(mut self, usage: Arc<Usage>) -> Self {
        self.0.usage = usage;
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
        GrantBuilder(Self {
            scope: Arc::new(scope),
            rights,
            names: None,
            disclosed: None,
            sub_prefixes: false,
            documents: None,
            losses: None,
            durability: Durability::S3,
            usage: Arc::default(),
        })
    }

    /// A grant of everything in `scope`: for the operator's own commands.
    #[must_use]
    pub fn operator(scope: Scope) -> Self {
        Self::builder(scope, Rights::ALL).sub_prefixes().build()
    }

    /// Where it holds.
    #[must_use]
    pub fn scope(&self) -> &Scope {
        &self.scope
    }

    /// The manifests that it is for: those that a build names. `None`: for all of the scope, which no
    /// build's grant is.
    #[must_use]
    pub fn names(&self) -> Option<&[ManifestName]> {
        self.names.as_deref()
    }

    /// The manifest that a build imports with it.
    #[must_use]
    pub fn imported(&self) -> Option<&ManifestName> {
        self.disclosed.as_ref()?;
        self.names()?.first()
    }

    /// Whether prefixes below the scope's own are reached.
    #[must_use]
    pub fn reaches_sub_prefixes(&self) -> bool {
        self.sub_prefixes
    }

    /// The counters of the build that it was made for.
    #[must_use]
    pub fn usage(&self) -> &Usage {
        &self.usage
    }

    /// The documents of the session that it was made for.
    #[must_use]
    pub fn documents(&self) -> Option<&Documents> {
        self.documents.as_deref()
    }

    /// What its caller may lose when the store fails.
    #[must_use]
    pub fn losses(&self) -> Option<&Losses> {
        self.losses.as_deref()
    }

    /// What an acknowledged write has reached.
    #[must_use]
    pub fn durability(&self) -> Durability {
        self.durability
    }

    /// The same grant for a longer prefix, where it reaches there.
    ///
    /// # Errors
    /// [`Denied`] where the grant is for its own prefix alone or the prefix is not valid.
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

    /// Checks a right on the scope as a whole (listing, say).
    ///
    /// # Errors
    /// [`Denied`] without the right.
    pub fn check(&self, right: Right) -> Result<(), Denied> {
        if self.rights.allows(right) { Ok(()) } else { Err(Denied::new(format!("this grant has no {right:?} right on {}", self.scope))) }
    }

    /// Checks a right on a manifest.
    ///
    /// # Errors
    /// [`Denied`] without the right, or for a manifest that the grant does not name.
    pub fn check_manifest(&self, right: Right, name: &ManifestName) -> Result<(), Denied> {
        self.check(right)?;
        match &self.names {
            Some(names) if !names.contains(name) => Err(Denied::new(format!("this grant is not for manifest {name}"))),
            _ => Ok(()),
        }
    }

    /// Checks a right on a blob.
    ///
    /// # Errors
    /// [`Denied`] without the right, or for a blob that no manifest read under this grant named.
    pub fn check_blob(&self, right: Right, digest: &Digest) -> Result<(), Denied> {
        self.check(right)?;
        match &self.disclosed {
            Some(disclosed) if !disclosed.lock().unwrap_or_else(PoisonError::into_inner).contains(digest) => {
                Err(Denied::new(format!("no manifest that was read under this grant names blob {digest}")))
            }
            _ => Ok(()),
        }
    }

    /// Whether a manifest served under this grant named the blob, as far as the grant keeps count of that.
    #[must_use]
    pub fn was_promised(&self, digest: &Digest) -> bool {
        self.disclosed.as_ref().is_some_and(|disclosed| disclosed.lock().unwrap_or_else(PoisonError::into_inner).contains(digest))
    }

    /// Remembers blobs that a manifest served under this grant names.
    pub fn disclose(&self, digests: impl IntoIterator<Item = Digest>) {
        if let Some(disclosed) = &self.disclosed {
            disclosed.lock().unwrap_or_else(PoisonError::into_inner).extend(digests);
        }
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
