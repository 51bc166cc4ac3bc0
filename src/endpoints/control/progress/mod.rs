//! What clients are told of a build, and what they tell about it: progress and traces.
//!
//! The stream of a `Control/Status` call enters and leaves with the right names on the vertexes of a cache
//! that goes through the build's session. A client's traces enter and leave without the credentials in them.
//! Every other byte of both stays.

pub(crate) mod names;
pub(crate) mod traces;
pub(crate) mod vertex;
