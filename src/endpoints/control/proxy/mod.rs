//! One call on its way to a peer and back, with every byte as it came.
//!
//! A request enters, and leaves for buildkitd (or, inside a session, for the build's client); the response
//! goes back the same way while it is still arriving. Each call is counted and logged when it ends, however
//! it ends. What the calls mean is for the rooms above.

mod answer;
mod call;
mod forward;
mod request_body;
mod response_body;
mod upstream;

pub(super) use answer::Answer;
pub(super) use call::Call;
pub(super) use forward::{Answered, Proxy, UnaryCall, refuse};
pub(super) use request_body::RequestBody;
pub(super) use response_body::{BodyError, ResponseBody};
pub(super) use upstream::Upstream;
