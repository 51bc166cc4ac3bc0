//! The buckets that are served: those that the operator named, or any in a directory.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use super::{Directory, GuardedStore};
use crate::types::{BucketName, Denied, Scope};

/// One bucket that the operator configured.
#[derive(Debug, Clone)]
pub struct Served {
    /// Its objects.
    pub store: Arc<dyn GuardedStore>,
    /// What `region=` of a build must be; `None`: any.
    pub region: Option<String>,
    /// What every `prefix=` must begin with; may be empty.
    pub prefix: String,
}

/// All buckets of a remora.
#[derive(Debug, Clone)]
pub enum Stores {
    /// Each folder of a directory is a bucket, which is made by its first write.
    Directory {
        /// The directory.
        root: PathBuf,
        /// The bucket of a build that names none.
        default: BucketName,
    },
    /// The buckets of the configuration.
    Buckets {
        /// By name.
        served: BTreeMap<BucketName, Served>,
        /// The bucket of a build that names none.
        default: BucketName,
    },
}

impl Stores {
    /// The bucket for callers that name none.
    #[must_use]
    pub fn default_bucket(&self) -> &BucketName {
        match self {
            Self::Directory { default, .. } | Self::Buckets { default, .. } => default,
        }
    }

    /// A bucket by name.
    ///
    /// # Errors
    /// [`Denied`], which names what is served, for a bucket that is not served.
    pub fn bucket(&self, name: &BucketName) -> Result<Served, Denied> {
        match self {
            Self::Directory { root, .. } => Ok(Served { store: Arc::new(Directory::new(root, name)), region: None, prefix: String::new() }),
            Self::Buckets { served, .. } => {
                served.get(name).cloned().ok_or_else(|| Denied::new(format!("bucket {name} is not served here; {}", self.offer())))
            }
        }
    }

    /// The store of a scope.
    ///
    /// # Errors
    /// [`Denied`] for a bucket that is not served or a prefix outside of what the operator allows.
    pub fn store(&self, scope: &Scope) -> Result<Arc<dyn GuardedStore>, Denied> {
        let served = self.bucket(scope.bucket())?;
        if scope.prefix().starts_with(&served.prefix) {
            Ok(served.store)
        } else {
            Err(Denied::new(format!("prefix {:?} of bucket {} is not served here; {}", scope.prefix(), scope.bucket(), self.offer())))
        }
    }

    /// What is served, for people: `this remora serves bucket build-cache (region eu-west-1, prefix "ci/")`.
    #[must_use]
    pub fn offer(&self) -> String {
        match self {
            Self::Directory { root, .. } => format!("this remora serves any bucket, in {}", root.display()),
            Self::Buckets { served, .. } => {
                let each: Vec<String> = served
                    .iter()
                    .map(|(name, bucket)| {
                        let region = bucket.region.as_ref().map(|region| format!("region {region}"));
                        let prefix = (!bucket.prefix.is_empty()).then(|| format!("prefix {:?}", bucket.prefix));
                        let details: Vec<String> = region.into_iter().chain(prefix).collect();
                        if details.is_empty() { name.to_string() } else { format!("{name} ({})", details.join(", ")) }
                    })
                    .collect();
                format!("this remora serves bucket {}", each.join(", "))
            }
        }
    }

    /// The buckets that are known without asking a store: for readiness checks.
    #[must_use]
    pub fn known(&self) -> Vec<Arc<dyn GuardedStore>> {
        match self {
            Self::Directory { root, default } => vec![Arc::new(Directory::new(root, default))],
            Self::Buckets { served, .. } => served.values().map(|bucket| Arc::clone(&bucket.store)).collect(),
        }
    }
}
