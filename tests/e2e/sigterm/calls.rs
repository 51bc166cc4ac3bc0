//! Calls of BuildKit's API that a gate knows.

pub const SESSION: &str = "/moby.buildkit.v1.Control/Session";
pub const SOLVE: &str = "/moby.buildkit.v1.Control/Solve";
pub const HISTORY: &str = "/moby.buildkit.v1.Control/ListenBuildHistory";
