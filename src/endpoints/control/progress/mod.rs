//! What clients are told of a build, and what they tell about it: progress and traces.
//!
//! The stream of a `Control/Status` call enters and leaves with the right names on the vertexes of a cache that goes
//! through the build's session ([`Progress`]). A client's traces enter and leave without the credentials in them.
//! Every other byte of both stays.

mod stream;
mod traces;
mod vertex_digest;
mod vertex_names;

pub(super) use stream::{named, uncompressed};
pub(super) use traces::{EXPORT_TRACES, masked};
pub(super) use vertex_names::Progress;

/// The path of the call by which clients follow a build.
pub(super) const STATUS: &str = "/moby.buildkit.v1.Control/Status";
