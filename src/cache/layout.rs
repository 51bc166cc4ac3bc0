//! BuildKit's native layout: the only place where object keys are made or taken apart.
//!
//! The keys are `<prefix><blobs_prefix><digest>` and `<prefix><manifests_prefix><name>`, joined without slashes of our own
//! (`cache/remotecache/s3/s3.go`, v0.33). The labels beside them are remora's own.

use crate::types::{Digest, Key, ManifestName, Scope};

/// The key of a blob.
#[must_use]
pub fn blob_key(scope: &Scope, digest: &Digest) -> Key {
    Key::new(&blobs_prefix(scope), &digest.to_string())
}

/// The key of a manifest.
#[must_use]
pub fn manifest_key(scope: &Scope, name: &ManifestName) -> Key {
    Key::new(&manifests_prefix(scope), name.as_str())
}

/// The key of a blob's labels: what the content endpoint knows of it beyond its bytes.
#[must_use]
pub fn labels_key(scope: &Scope, digest: &Digest) -> Key {
    Key::new(&format!("{}{}", scope.prefix(), Scope::LABELS_PREFIX), &digest.to_string())
}

/// What the keys of all blobs of a scope begin with.
#[must_use]
pub fn blobs_prefix(scope: &Scope) -> String {
    format!("{}{}", scope.prefix(), scope.blobs_prefix())
}

/// The bucket and the blobs' prefix of a scope: no two scopes share it unless they share their blobs.
#[must_use]
pub fn blobs_place(scope: &Scope) -> String {
    format!("{}/{}", scope.bucket(), blobs_prefix(scope))
}

/// The bucket and the key of a blob.
#[must_use]
pub fn blob_place(scope: &Scope, digest: &Digest) -> String {
    format!("{}{digest}", blobs_place(scope))
}

/// The bucket and the key of a manifest.
#[must_use]
pub fn manifest_place(scope: &Scope, name: &ManifestName) -> String {
    format!("{}/{}", scope.bucket(), manifest_key(scope, name))
}

/// What the keys of all manifests of a scope begin with.
#[must_use]
pub fn manifests_prefix(scope: &Scope) -> String {
    format!("{}{}", scope.prefix(), scope.manifests_prefix())
}

/// What a key names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Item {
    /// A blob.
    Blob(Digest),
    /// A manifest.
    Manifest(ManifestName),
}

impl std::fmt::Display for Item {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Blob(digest) => write!(f, "blob {digest}"),
            Self::Manifest(name) => write!(f, "manifest {name}"),
        }
    }
}

/// Takes a key of `scope` apart: what it names, and the part of its prefix that goes beyond the
/// scope's own. `None` for a key that is neither a blob's nor a manifest's.
#[must_use]
pub fn locate(scope: &Scope, key: &str) -> Option<(String, Item)> {
    let rest = key.strip_prefix(scope.prefix())?;
    if let Some((digest, at)) = rest.rfind("sha256:").and_then(|at| Some((rest[at..].parse().ok()?, at)))
        && let Some(below) = rest[..at].strip_suffix(scope.blobs_prefix())
        && (below.is_empty() || below.ends_with('/'))
    {
        return Some((below.to_owned(), Item::Blob(digest)));
    }
    let wanted = scope.manifests_prefix();
    // The outermost match at a folder's border wins: names may contain anything.
    rest.match_indices(wanted)
        .map(|(at, _)| at)
        .find(|&at| at == 0 || rest[..at].ends_with('/'))
        .and_then(|at| Some((rest[..at].to_owned(), Item::Manifest(rest[at + wanted.len()..].parse().ok()?))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(prefix: &str, blobs: &str, manifests: &str) -> Scope {
        Scope::with_prefixes("bucket".parse().unwrap(), prefix, blobs, manifests).unwrap()
    }

    #[test]
    fn keys_are_those_of_buildkit() {
        let digest = Digest::of(b"");
        let name: ManifestName = "team/app".parse().unwrap();
        let plain = scope("", "blobs/", "manifests/");
        assert_eq!(blob_key(&plain, &digest).as_str(), format!("blobs/{digest}"));
        assert_eq!(manifest_key(&plain, &name).as_str(), "manifests/team/app");
        assert_eq!(manifest_key(&plain, &name).leaf(), "team/app");
        let odd = scope("ci-", "b", "m/x");
        assert_eq!(blob_key(&odd, &digest).as_str(), format!("ci-b{digest}"));
        assert_eq!(manifest_key(&odd, &name).as_str(), "ci-m/xteam/app");
        assert_eq!(manifest_key(&odd, &name).folder(), "ci-m/");
    }

    #[test]
    fn every_key_is_located_again() {
        let digest = Digest::of(b"x");
        for layout in
            [scope("", "blobs/", "manifests/"), scope("ci/", "blobs/", "manifests/"), scope("ci-", "b-", "m-"), scope("", "", "m/")]
        {
            assert_eq!(locate(&layout, blob_key(&layout, &digest).as_str()), Some((String::new(), Item::Blob(digest))));
            for name in ["app", "team/app", "manifests/app", "sha256:x"] {
                let name: ManifestName = name.parse().unwrap();
                assert_eq!(locate(&layout, manifest_key(&layout, &name).as_str()), Some((String::new(), Item::Manifest(name))));
            }
        }
        let outer = scope("ci/", "blobs/", "manifests/");
        assert_eq!(locate(&outer, &format!("ci/x/blobs/{digest}")), Some(("x/".to_owned(), Item::Blob(digest))));
        assert_eq!(locate(&outer, "ci/x/manifests/app"), Some(("x/".to_owned(), Item::Manifest("app".parse().unwrap()))));
        for foreign in ["", "ci/", "other/manifests/app", "ci/manifests/", "ci/labels/x", "ci/xmanifests/app", "ci/manifests/../x"] {
            assert_eq!(locate(&outer, foreign), None, "{foreign}");
        }
    }
}
