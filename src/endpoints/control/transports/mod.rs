//! How the bytes of a build's cache travel between buildkitd and remora.
//!
//! A build enters, and the way for its cache leaves ([`Router`]): the relay (HTTP, through the s3 endpoint) or the
//! build's session. Where the operator leaves the choice to remora, buildkitd is asked whether it reaches the s3
//! endpoint. What an entry becomes for the relay is written here; for the session transport, see the room `session`.

mod probe;
pub(super) mod relay;
mod router;

pub(super) use router::{Route, Router};

/// How cache bytes go between buildkitd and remora.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// Relay where buildkitd reaches the s3 endpoint, else session.
    Auto,
    /// Over HTTP, through the s3 endpoint, unchecked.
    Relay,
    /// Over gRPC, through the client's session: needs nothing but the control socket, and is slower.
    Session,
}
