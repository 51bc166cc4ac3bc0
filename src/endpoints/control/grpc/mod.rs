//! What the endpoint needs of gRPC, protobuf and HTTP/2, with no knowledge of BuildKit's calls.
//!
//! Bytes enter: frames, messages, the stream inside a session. What leaves are single messages, messages with
//! some fields replaced, byte streams, statuses, and connections with their limits set. Nothing here decides
//! what a message means or where it goes.

pub(crate) mod batched;
pub(crate) mod limits;
pub(crate) mod message;
pub(crate) mod status;
pub(crate) mod tunnel;
pub(crate) mod wire;
