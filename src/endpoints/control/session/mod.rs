//! The session transport: a build's cache over gRPC, through the session of the build's client.
//!
//! A `Control/Session` call enters, and remora stands between its two ends, where it answers buildkitd's calls
//! for its own content stores. A `type=s3` cache entry enters, and leaves as a `type=local` entry that names
//! such a store. What a build exported there is published when the build has succeeded.

pub(crate) mod inline;
pub(crate) mod join;
pub(crate) mod local;
pub(crate) mod oci;
