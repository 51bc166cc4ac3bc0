//! The limits of HTTP/2 connections, on both sides, and who runs their tasks.

use std::future::Future;

use crate::shutdown::Shutdown;

/// What may be on its way in one call before its reader took any of it.
pub(super) const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// The same for all calls of a connection.
pub(super) const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// The largest data frame that is taken.
pub(super) const MAX_FRAME_BYTES: u32 = 1 << 20;
/// Headers and trailers of one call: BuildKit's errors carry their details there.
pub(super) const MAX_HEADER_BYTES: u32 = 1 << 20;
/// What is held of one call until the peer takes it.
pub(super) const SEND_BUFFER_BYTES: usize = 1 << 20;
/// Calls at once on one connection.
pub(super) const MAX_STREAMS: u32 = 10_000;
/// Calls that were reset and are remembered: a client that is stopped cancels all of its calls at once.
pub(super) const RESET_STREAMS: usize = 10_000;

/// Runs hyper's tasks.
#[derive(Debug, Clone)]
pub(super) struct Tasks(pub(super) Shutdown);

impl<F: Future<Output = ()> + Send + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, task: F) {
        self.0.spawn(task);
    }
}
