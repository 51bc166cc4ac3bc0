//! The calls of one client, each led through the rooms that it needs.
//!
//! A connection enters ([`serve_connection`]). The path of each call says what it is: the calls that make a build go
//! through `solve`, a session through the room `session`, progress and traces through the room `progress`. Every other
//! call is forwarded unread. What leaves is the peer's answer.

mod call;
mod connection;
mod decide;
mod solve;
mod status;

use std::sync::Arc;

use crate::endpoints::control::admission::{Admission, Arrival};
use crate::endpoints::control::builds::Builds;
use crate::endpoints::control::progress::Progress;
use crate::endpoints::control::proxy::{Proxy, Upstream};
use crate::endpoints::control::replay::Replayer;
use crate::endpoints::control::session::{Publisher, Sessions};
use crate::endpoints::control::transports::Router;
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

/// The rooms that calls go through, each by the struct that it shows.
#[derive(Debug)]
pub(super) struct Rooms {
    pub(super) shutdown: Shutdown,
    pub(super) admission: Arc<Admission>,
    pub(super) proxy: Proxy,
    pub(super) router: Arc<Router>,
    pub(super) builds: Arc<Builds>,
    pub(super) decider: EntryDecider,
    pub(super) publisher: Publisher,
    pub(super) sessions: Arc<Sessions>,
    pub(super) replayer: Replayer,
    pub(super) progress: Arc<Progress>,
}
