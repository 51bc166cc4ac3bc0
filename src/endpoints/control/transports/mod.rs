//! How the bytes of a build's cache travel between buildkitd and remora.
//!
//! A build enters, and the way for its cache leaves: the relay (HTTP, through the s3 endpoint) or the build's
//! session. Where the operator leaves the choice to remora, buildkitd is asked whether it reaches the s3
//! endpoint. What an entry becomes for the relay is written here; for the session, see the room `session`.

pub(crate) mod probe;
pub(crate) mod relay;
pub(crate) mod route;
