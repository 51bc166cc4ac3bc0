//! The limits of HTTP/2 connections, to clients and to buildkitd.

use hyper::{client, server};

use crate::shutdown::Shutdown;

/// Bytes of one call that may be on their way before the reader has taken any of them.
const STREAM_WINDOW_BYTES: u32 = 4 << 20;
/// Bytes of all calls of a connection that may be on their way before the readers have taken any of them.
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;
/// The largest data frame that is accepted.
const MAX_FRAME_BYTES: u32 = 1 << 20;
/// Headers and trailers of one call: BuildKit's errors carry their details there.
const MAX_HEADER_BYTES: u32 = 1 << 20;
/// Bytes of one call that are held until the peer takes them.
const SEND_BUFFER_BYTES: usize = 1 << 20;
/// Reset calls that are remembered. A client that is stopped cancels all of its calls at once.
const RESET_STREAMS: usize = 10_000;

/// Sets the limits that both kinds of connections have. (hyper's two builders share no trait.)
macro_rules! limited {
    ($builder:expr) => {{
        let mut builder = $builder;
        builder
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(MAX_FRAME_BYTES)
            .max_header_list_size(MAX_HEADER_BYTES)
            .max_send_buf_size(SEND_BUFFER_BYTES);
        builder
    }};
}

/// For connections on which others call, at most `max_streams` at once.
pub(crate) fn server(shutdown: Shutdown, max_streams: u32) -> server::conn::http2::Builder<Shutdown> {
    let mut builder = limited!(server::conn::http2::Builder::new(shutdown));
    builder
        .max_concurrent_streams(max_streams)
        .max_pending_accept_reset_streams(RESET_STREAMS)
        .max_local_error_reset_streams(RESET_STREAMS)
        .auto_date_header(false);
    builder
}

/// For connections on which remora calls.
pub(crate) fn client(shutdown: Shutdown) -> client::conn::http2::Builder<Shutdown> {
    let mut builder = limited!(client::conn::http2::Builder::new(shutdown));
    builder.max_concurrent_reset_streams(RESET_STREAMS).max_local_error_reset_streams(None);
    builder
}
