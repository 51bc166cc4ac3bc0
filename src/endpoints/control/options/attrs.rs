//! The attributes of a `type=s3` cache entry, read against what the operator serves.
//!
//! Names and defaults are those of `cache/remotecache/s3` in BuildKit v0.33.

use std::collections::BTreeMap;
use std::fmt;

use crate::auth::{GrantRequest, Purpose};
use crate::store::Stores;
use crate::types::{BucketName, Durability, Invalid, ManifestName, Scope};

/// The attributes of a cache entry.
pub(crate) type Attrs = BTreeMap<String, String>;

/// S3 requests are signed for a region even where the store has none.
const DEFAULT_REGION: &str = "us-east-1";

/// Why an attribute is refused, in one line for the client.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("cache type=s3: {invalid}; {offer}")]
pub(crate) struct Refusal {
    invalid: Invalid,
    offer: String,
}

/// The cache that an entry means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    /// Where it lives.
    pub(crate) scope: Scope,
    /// What requests are signed for.
    pub(crate) region: String,
    /// The manifests that an export writes, or the one that an import reads.
    pub(crate) names: Vec<ManifestName>,
    /// When an export is acknowledged.
    pub(crate) durability: Durability,
}

impl Target {
    /// The target of an entry. `durability` is that of entries that name none; the attribute is remora's own, and
    /// BuildKit skips attributes that it does not know. An empty `bucket`, `region` or `durability` counts as none:
    /// scripts with an unset variable send that.
    ///
    /// # Errors
    /// [`Refusal`] for what is not valid or not served.
    pub(crate) fn read(attrs: &Attrs, purpose: Purpose, stores: &Stores, durability: Durability) -> Result<Self, Refusal> {
        let refuse = |invalid| Refusal { invalid, offer: stores.offer() };
        let given = |attribute: &str| attrs.get(attribute).map(String::as_str);
        let bucket = match given("bucket").filter(|bucket| !bucket.is_empty()) {
            Some(bucket) => bucket.parse::<BucketName>().map_err(refuse)?,
            None => stores.default_bucket().clone(),
        };
        let served = stores.bucket(&bucket).map_err(|_| refuse(Invalid::new("bucket", bucket.as_str(), "it is not served here")))?;
        let region = match (given("region").filter(|region| !region.is_empty()), served.region) {
            (Some(region), Some(served)) if region != served => {
                return Err(refuse(Invalid::new("region", region, "the bucket is in another one")));
            }
            (Some(region), _) => region.to_owned(),
            (None, served) => served.unwrap_or_else(|| DEFAULT_REGION.to_owned()),
        };
        let prefix = given("prefix").unwrap_or(&served.prefix);
        if !prefix.starts_with(&served.prefix) {
            return Err(refuse(Invalid::new("prefix", prefix, "it must begin with the served one")));
        }
        let blobs_prefix = given("blobs_prefix").unwrap_or(Scope::BLOBS_PREFIX);
        let manifests_prefix = given("manifests_prefix").unwrap_or(Scope::MANIFESTS_PREFIX);
        for (attribute, value) in [("prefix", prefix), ("blobs_prefix", blobs_prefix), ("manifests_prefix", manifests_prefix)] {
            if value.split('/').any(|part| part == "." || part == "..") {
                return Err(refuse(Invalid::new(attribute, value, "want no '.' or '..' between slashes")));
            }
        }
        let scope = Scope::with_prefixes(bucket, prefix, blobs_prefix, manifests_prefix).map_err(refuse)?;
        let mut names =
            given("name").unwrap_or(ManifestName::DEFAULT).split(';').map(str::parse).collect::<Result<Vec<_>, _>>().map_err(refuse)?;
        if purpose == Purpose::Import {
            names.truncate(1);
        }
        let durability = match given("durability").filter(|text| !text.is_empty()) {
            Some(text) => text.parse().map_err(refuse)?,
            None => durability,
        };
        Ok(Self { scope, region, names, durability })
    }

    /// The grant that its use takes.
    pub(crate) fn grant_request(&self, purpose: Purpose) -> GrantRequest<'_> {
        GrantRequest { purpose, scope: &self.scope, names: &self.names, durability: self.durability }
    }
}

impl fmt::Display for Target {
    /// `s3://bucket/prefix/one;two`, the names as users write them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<&str> = self.names.iter().map(ManifestName::as_str).collect();
        write!(f, "{}{}", self.scope, names.join(";"))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::store::{Directory, Served};

    fn stores() -> Stores {
        let bucket: BucketName = "build-cache".parse().unwrap();
        let store = Arc::new(Directory::new(std::path::Path::new("/nowhere"), &bucket));
        let served = Served { store, region: Some("eu-west-1".to_owned()), prefix: "ci/".to_owned() };
        Stores::Buckets { served: BTreeMap::from([(bucket.clone(), served)]), default: bucket }
    }

    fn read(purpose: Purpose, attrs: &[(&str, &str)]) -> Result<Target, String> {
        let attrs = attrs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Target::read(&attrs, purpose, &stores(), Durability::Local).map_err(|refusal| refusal.to_string())
    }

    #[test]
    fn what_is_omitted_is_what_is_served() {
        for attrs in [&[][..], &[("bucket", ""), ("region", ""), ("durability", "")]] {
            let target = read(Purpose::Export, attrs).unwrap();
            assert_eq!(target.scope, Scope::new("build-cache".parse().unwrap(), "ci/").unwrap());
            assert_eq!((target.region.as_str(), target.names), ("eu-west-1", vec!["buildkit".parse().unwrap()]));
            assert_eq!(target.durability, Durability::Local);
        }
        assert_eq!(read(Purpose::Export, &[("durability", "s3")]).unwrap().durability, Durability::S3);
    }

    #[test]
    fn an_export_has_all_names_and_an_import_the_first() {
        let attrs = [("name", "a;b/c"), ("prefix", "ci/app/"), ("blobs_prefix", "b-"), ("manifests_prefix", "")];
        let export = read(Purpose::Export, &attrs).unwrap();
        let (a, b): (ManifestName, ManifestName) = ("a".parse().unwrap(), "b/c".parse().unwrap());
        assert_eq!(export.names, [a.clone(), b]);
        assert_eq!(export.to_string(), "s3://build-cache/ci/app/a;b/c");
        assert_eq!(export.scope, Scope::with_prefixes("build-cache".parse().unwrap(), "ci/app/", "b-", "").unwrap());
        assert_eq!(read(Purpose::Import, &attrs).unwrap().names, [a]);
    }

    #[test]
    fn what_is_not_served_is_refused_by_name() {
        let long = "x".repeat(600);
        for (attribute, value) in [
            ("bucket", "other-cache"),
            ("bucket", "../escape"),
            ("region", "us-east-1"),
            ("prefix", ""),
            ("prefix", "other/"),
            ("prefix", "ci/../other/"),
            ("blobs_prefix", "../"),
            ("manifests_prefix", &long),
            ("name", ""),
            ("name", "app;"),
            ("name", "../app"),
            ("durability", "disk"),
        ] {
            let refusal = read(Purpose::Import, &[(attribute, value)]).unwrap_err();
            assert!(refusal.contains(attribute) && !refusal.contains('\n'), "{refusal}");
            assert!(refusal.contains("serves bucket build-cache (region eu-west-1, prefix \"ci/\")"), "{refusal}");
        }
    }
}
