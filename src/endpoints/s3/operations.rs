//! What all operations share, and their names.

use std::sync::{Arc, OnceLock};

use crate::cache::Cache;
use crate::metrics::Metrics;

/// The names of the operations in the metrics: a closed set.
const NAMES: [&str; 16] = [
    "Probe",
    "HeadObject",
    "GetObject",
    "PutObject",
    "CopyObject",
    "DeleteObject",
    "CreateMultipartUpload",
    "UploadPart",
    "UploadPartCopy",
    "CompleteMultipartUpload",
    "AbortMultipartUpload",
    "ListParts",
    "ListObjectsV2",
    "ListBuckets",
    "HeadBucket",
    "GetBucketLocation",
];

/// Which operation a request is for. Not known until the request's signature has been checked.
#[derive(Debug, Clone, Default)]
pub(super) struct OperationName(Arc<OnceLock<&'static str>>);

impl OperationName {
    pub(super) fn set(&self, name: &str) {
        if let Some(known) = NAMES.iter().find(|known| **known == name) {
            self.0.get_or_init(|| known);
        }
    }

    pub(super) fn get(&self) -> &'static str {
        self.0.get().copied().unwrap_or("other")
    }
}

/// What the operations work with. Their methods are in the files of their subjects. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Operations {
    pub(super) cache: Cache,
    pub(super) metrics: Metrics,
}

impl Operations {
    pub(super) fn new(cache: Cache, metrics: Metrics) -> Self {
        Self { cache, metrics }
    }
}
