//! The calls that make a build, and what they say of it.

use crate::endpoints::control::grpc::wire::{self, Malformed};

/// The metadata in which gateway calls name their build (`client/buildid` of BuildKit v0.33).
pub(crate) const BUILD_ID: &str = "buildkit-controlapi-buildid";

/// A call that makes a build, or a step of one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum SolveCall {
    /// `moby.buildkit.v1.Control/Solve`: a build. It may carry cache options.
    Build,
    /// `moby.buildkit.v1.frontend.LLBBridge/Solve`: a step of a build that runs. It may carry cache options.
    Gateway,
    /// `moby.buildkit.v1.frontend.LLBBridge/Return`: the last step. It carries no cache options, but a replay
    /// needs it.
    Return,
}

impl SolveCall {
    /// The call of a path.
    pub(crate) fn of(path: &str) -> Option<Self> {
        match path {
            "/moby.buildkit.v1.Control/Solve" => Some(Self::Build),
            "/moby.buildkit.v1.frontend.LLBBridge/Solve" => Some(Self::Gateway),
            "/moby.buildkit.v1.frontend.LLBBridge/Return" => Some(Self::Return),
            _ => None,
        }
    }
}

/// `SolveRequest.Ref`, and `StatusRequest.Ref`: the client's name for the build.
pub(crate) fn build_reference(message: &[u8]) -> Result<String, Malformed> {
    wire::last_text(message, 1)
}

/// `SolveRequest.Session`: the session that the build's client answers in.
pub(crate) fn build_session(message: &[u8]) -> Result<String, Malformed> {
    wire::last_text(message, 5)
}

/// Whether a `ReturnRequest` has an error (2) in place of a result.
pub(crate) fn is_failed_return(message: &[u8]) -> bool {
    wire::fields(message).any(|field| field.is_ok_and(|field| field.number == 2))
}
