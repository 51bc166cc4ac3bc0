//! The builds that run: what remora keeps of each from its `Control/Solve` to that call's end.
//!
//! A reference and a session enter when a build begins ([`Builds::begin`]). The build then gives out grants for its
//! cache entries, remembers the way that its cache takes, and holds what the rooms below keep of it. When it ends,
//! its grants end, and one line about its cache leaves for the log.

mod build;
mod summary;

pub(super) use build::{Build, Builds};
