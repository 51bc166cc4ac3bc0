//! The endpoints that callers speak to. Each translates one protocol to the cache's calls and decides nothing itself.
//! None of them knows another one.

mod connections;
pub mod content;
pub mod control;
mod listener;
pub mod s3;

pub use connections::{Activity, accept_loop};
pub use listener::{BindError, Connection, Listener};
