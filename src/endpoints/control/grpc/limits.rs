//! HTTP/2 connections on both sides: their limits.

use hyper::{client, server};

use crate::shutdown::Shutdown;

/// What may be on its way in one call before its reader took any of it.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// The same for all calls of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// The largest data frame that is taken.
const MAX_FRAME_BYTES: u32 = 1 << 20;
/// Headers and trailers of one call: BuildKit's errors carry their details there.
const MAX_HEADER_BYTES: u32 = 1 << 20;
/// What is held of one call until the peer takes it.
const SEND_BUFFER_BYTES: usize = 1 << 20;
/// Calls that were reset and are remembered: a client that is stopped cancels all of its calls at once.
const RESET_STREAMS: usize = 10_000;

/// For connections on which others call, at most `max_streams` at once.
pub(crate) fn server(shutdown: Shutdown, max_streams: u32) -> server::conn::http2::Builder<Shutdown> {
    let mut builder = server::conn::http2::Builder::new(shutdown);
    builder
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_concurrent_streams(max_streams)
        .max_pending_accept_reset_streams(RESET_STREAMS)
        .max_local_error_reset_streams(RESET_STREAMS)
        .auto_date_header(false);
    builder
}

/// For connections on which remora calls.
pub(crate) fn client(shutdown: Shutdown) -> client::conn::http2::Builder<Shutdown> {
    let mut builder = client::conn::http2::Builder::new(shutdown);
    builder
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_frame_size(MAX_FRAME_BYTES)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_concurrent_reset_streams(RESET_STREAMS)
        .max_local_error_reset_streams(None);
    builder
}
