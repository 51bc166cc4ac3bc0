//! The calls of one client, each led through the rooms that it needs.
//!
//! A connection enters ([`serve_connection`]), and each of its calls is told apart by its path. The calls that make a
//! build go through `solve`, a session through the room `session`, progress and traces through the room `progress`.
//! Every other call is forwarded unread. What leaves is the peer's answer.

mod call;
mod connection;
mod decide;
mod solve;
mod status;

use std::sync::Arc;

use super::admission::{Admission, Arrival};
use super::builds::Builds;
use super::progress::Progress;
use super::proxy::{Proxy, Upstream};
use super::replay::Replayer;
use super::session::{SessionTransport, Sessions};
use super::transports::Router;
use crate::shutdown::Shutdown;

pub(super) use connection::serve_connection;
pub(super) use decide::EntryDecider;

/// One client's connection, and what its calls share.
#[derive(Debug)]
struct Client {
    rooms: Arc<Rooms>,
    upstream: Arc<Upstream>,
    arrival: Arrival,
}

/// The doors of the rooms that calls go through.
#[derive(Debug)]
pub(super) struct Rooms {
    pub(super) shutdown: Shutdown,
    pub(super) admission: Arc<Admission>,
    pub(super) proxy: Proxy,
    pub(super) router: Arc<Router>,
    pub(super) builds: Arc<Builds>,
    pub(super) decider: EntryDecider,
    pub(super) session_transport: Arc<SessionTransport>,
    pub(super) sessions: Arc<Sessions>,
    pub(super) replayer: Replayer,
    pub(super) progress: Arc<Progress>,
}
