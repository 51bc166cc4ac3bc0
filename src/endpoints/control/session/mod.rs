//! The session transport: a build's cache over gRPC, through the session of the build's client.
//!
//! A `Control/Session` call enters, and remora stands between its two ends ([`Sessions`]), where it answers
//! buildkitd's calls for content stores of its own. A `type=s3` cache entry enters, and leaves as a `type=local`
//! entry that names such a store ([`SessionEntries`]). What a build exported there is published when the build has
//! succeeded ([`Publisher`]).
//!
//! `dest` and `src` of the entry name the store by the id of a grant made for this build: nobody can guess it, and
//! whichever connection a call comes by, it is known what the call may do. BuildKit's local importer wants the digest
//! of an OCI manifest, so the manifest is read when the build begins. Its exporter leaves an OCI manifest in the
//! grant's documents (`cache/remotecache/local`, BuildKit v0.33).

mod caches;
mod entry;
mod import;
mod join;
pub(super) mod oci;
mod publish;

pub(super) use caches::{SessionCaches, SessionGrant};
pub(super) use entry::SessionEntries;
pub use join::SessionContent;
pub(super) use join::{SESSION, Sessions, SessionsParts, session_id};
pub(super) use publish::Publisher;
