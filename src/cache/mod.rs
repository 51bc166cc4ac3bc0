//! The one core that all endpoints talk to: blobs, ingests and manifests in BuildKit's native layout.
//!
//! A blob is its digest: it becomes visible only when its bytes have that digest. A manifest never promises what is not there:
//! it is published only when every blob that it names is stored, and served to a build without what was lost since. Every
//! call carries a [`Grant`](crate::types::Grant), and nothing here knows gRPC, S3 or HTTP.
//!
//! [`Cache`] is a facade over rooms, each of which has only the fields that it needs and uses only the rooms after it:
//! `background` > `uploads` > `ingests` > `settings` > `manifests` > `labels` > `write` > `journal` > `read` > `disk` >
//! `known` > `document`.

mod background;
mod blob;
mod blobs;
mod blocking;
mod disk;
mod document;
mod error;
mod ingests;
mod journal;
mod known;
mod labels;
pub mod layout;
mod locks;
mod manifests;
mod objects;
pub mod outage;
mod read;
mod rooms;
mod settings;
mod status;
mod tolerant;
mod uploads;
mod write;

use std::sync::Arc;

pub use background::Background;
pub use blob::{BlobInfo, BlobRead, Incoming, Outgoing};
pub use blobs::Blobs;
pub use disk::DiskSettings;
pub use document::cache_config::{
    CacheConfig, CacheInput, CacheRecord, CacheResult, ChainedResult, Layer, LayerAnnotations, MalformedConfig,
};
pub use document::merge::{MergeLimits, Merged, StoredConfig};
pub use document::strip::Stripped;
pub use error::{Error, Result};
pub use ingests::{Ingest, IngestStatus, Ingests};
pub use journal::JournalStatus;
pub use labels::{Labelled, Labels};
pub use manifests::{ManifestInfo, Manifests, MergeRules};
pub use objects::{ObjectInfo, ObjectPage};
pub use outage::Export;
pub(crate) use read::KeptReads;
pub use read::Manifest;
pub use settings::Settings;
pub use status::{CacheStatus, SpoolStatus};
pub use tolerant::Tolerant;
pub use uploads::{NewPart, UploadId, UploadedPart, Uploads};

pub use crate::store::Condition;

/// The cache. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Cache(Arc<rooms::Rooms>);

impl Cache {
    /// Blobs: looked up, read, stored whole, kept young, listed, deleted.
    #[must_use]
    pub fn blobs(&self) -> &Blobs {
        &self.0.blobs
    }

    /// What the content endpoint knows of blobs beyond their bytes.
    #[must_use]
    pub fn labels(&self) -> &Labels {
        &self.0.labels
    }

    /// Manifests: published, served, looked up, listed, deleted.
    #[must_use]
    pub fn manifests(&self) -> &Manifests {
        &self.0.manifests
    }

    /// Blobs that are written message by message.
    #[must_use]
    pub fn ingests(&self) -> &Ingests {
        &self.0.ingests
    }

    /// Blobs and manifests that are written in parts.
    #[must_use]
    pub fn uploads(&self) -> &Uploads {
        &self.0.uploads
    }

    /// Calls of builds that go on without their cache when the store fails.
    #[must_use]
    pub fn tolerant(&self) -> &Tolerant {
        &self.0.tolerant
    }

    /// What goes on beside the calls. Its tasks must be spawned for that.
    #[must_use]
    pub fn background(&self) -> Background {
        self.0.background.clone()
    }
}
