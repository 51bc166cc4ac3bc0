//! One client's connection, from its first byte to its last.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::TokioIo;

use super::{Client, Rooms};
use crate::endpoints::control::grpc::{batched, limits};
use crate::endpoints::control::proxy::Upstream;
use crate::endpoints::{Activity, Connection};
use crate::shutdown::Shutdown;

/// No build is running when the endpoints close. The calls that are left, of clients that only watch, have so long to end.
const LEFT_CALLS: Duration = Duration::from_secs(1);

/// Serves the calls of a connection, which go to buildkitd through `upstream`, at most `max_streams` at once.
pub(crate) async fn serve_connection(rooms: Arc<Rooms>, upstream: Upstream, max_streams: u32, connection: Connection, activity: Activity) {
    let shutdown = rooms.shutdown.clone();
    let client = Arc::new(Client { arrival: rooms.admission.arrival(), upstream: Arc::new(upstream), rooms });
    let service = {
        let client = Arc::clone(&client);
        let activity = activity.clone();
        service_fn(move |request| {
            let running = activity.begin();
            let answer = Arc::clone(&client).serve_call(request);
            async move { answer.await.map(|response| running.answered(response)) }
        })
    };
    let server = limits::server(shutdown.clone(), max_streams);
    let mut served = pin!(server.serve_connection(TokioIo::new(batched::socket(connection)), service));
    let ended = tokio::select! {
        ended = served.as_mut() => ended,
        () = activity.is_over() => {
            served.as_mut().graceful_shutdown();
            tokio::select! {
                ended = served => ended,
                () = left_calls_end(&shutdown) => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "client connection broke");
    }
}

async fn left_calls_end(shutdown: &Shutdown) {
    shutdown.closing().await;
    tokio::time::sleep(LEFT_CALLS).await;
}
