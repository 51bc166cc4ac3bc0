//! The builds that run: what remora keeps of each from its `Control/Solve` to that call's end.
//!
//! A reference and a session enter when a build begins. The build then gives out grants for its cache entries,
//! remembers the way that its cache takes, and holds what the other rooms keep for it. When it ends, its grants
//! end, and one line about its cache leaves for the log.

pub(crate) mod build;
