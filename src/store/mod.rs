//! The storage seam: one bucket of objects, in S3 or in a directory.
//!
//! [`Store`] is narrow on purpose. Every backend passes the same contract suite
//! (`tests/it/store/contract`). Names of caches, blobs and manifests mean nothing here.

mod backoff;
mod contract;
mod directory;
mod guarded;
mod s3;
mod stores;

pub use backoff::Backoff;
pub use contract::{Body, ByteStream, Condition, Error, Meta, MultipartId, Object, Page, Part, Result, Store};
pub use directory::Directory;
pub use guarded::{BreakerPolicy, Deadlines, Guarded, GuardedStore, Policy, RemoteStore};
pub use s3::{Checksums, Credentials, S3, S3Config, ServerSideEncryption};
pub use stores::{Served, Stores};
