//! Where remora keeps the cache: a directory, or MinIO.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::minio::{self, Minio};
use super::process::files_below;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Directory,
    Minio,
}

/// A store that a remora is given.
#[derive(Debug)]
pub enum Storage {
    Directory(tempfile::TempDir),
    Minio(Minio),
}

impl Storage {
    /// An empty store with these buckets.
    pub fn new(kind: Kind, buckets: &[&str]) -> Self {
        match kind {
            Kind::Directory => Self::Directory(tempfile::tempdir().expect("temp dir")),
            Kind::Minio => Self::Minio(Minio::start(buckets)),
        }
    }

    /// remora's configuration for it. A directory serves any bucket, so `buckets` matter for MinIO alone.
    pub fn configuration(&self, buckets: &[&str]) -> String {
        match self {
            Self::Directory(dir) => format!("store = \"file://{}\"\n{LOOKUPS}", dir.path().display()),
            Self::Minio(minio) => configuration(minio.endpoint(), buckets),
        }
    }

    /// MinIO itself, for native BuildKit.
    pub fn minio(&self) -> &Minio {
        match self {
            Self::Minio(minio) => minio,
            Self::Directory(_) => panic!("this store is a directory"),
        }
    }

    /// The file of an object, where the store is a directory.
    pub fn file(&self, bucket: &str, key: &str) -> PathBuf {
        match self {
            Self::Directory(dir) => dir.path().join(bucket).join(key),
            Self::Minio(_) => panic!("this store is MinIO"),
        }
    }

    /// All objects of a bucket.
    pub fn objects(&self, bucket: &str) -> BTreeMap<String, Vec<u8>> {
        match self {
            Self::Directory(dir) => directory_objects(&dir.path().join(bucket)),
            Self::Minio(minio) => minio.objects(bucket),
        }
    }
}

/// remora's configuration for a MinIO at `endpoint`. The secret comes from the environment: see [`SECRET_VARIABLE`].
pub fn configuration(endpoint: &str, buckets: &[&str]) -> String {
    let table = |bucket: &&str| {
        format!(
            "[[buckets]]\nname = \"{bucket}\"\nendpoint = \"{endpoint}\"\nregion = \"{}\"\npath_style = true\n\
             access_key_id = \"{}\"\nsecret_access_key_env = \"{SECRET_VARIABLE}\"\n",
            minio::REGION,
            minio::ACCESS_KEY_ID
        )
    };
    let tables: String = buckets.iter().map(table).collect();
    format!("store = \"s3://{}\"\n{LOOKUPS}{tables}", buckets[0])
}

/// Cases delete blobs and import at once: a minute, as it is else, would be long.
pub const LOOKUPS: &str = "manifests.lookup_interval = \"500ms\"\n";

/// Where remora finds the secret key of the store.
pub const SECRET_VARIABLE: &str = "STORE_SECRET_ACCESS_KEY";

/// The objects of a bucket that is a folder. A slash in a file's name is written `%2F`; remora's own files
/// begin with a dot.
pub fn directory_objects(bucket: &Path) -> BTreeMap<String, Vec<u8>> {
    files_below(bucket)
        .into_iter()
        .filter(|file| !file.iter().any(|part| part.as_encoded_bytes().starts_with(b".")))
        .map(|file| (file.display().to_string().replace("%2F", "/"), std::fs::read(bucket.join(&file)).expect("object")))
        .collect()
}
