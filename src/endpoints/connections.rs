//! The connections of a listener: how many there may be, and which of them end to make room for others.
//!
//! A connection takes one of the listener's places. While no call runs on it, it may have to give its place up: where
//! all places are taken, the connection that has been idle for longest is asked to end, and its client connects again
//! when it has something to ask. So the bound counts connections at work.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http_body::{Body, Frame, SizeHint};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio_util::sync::CancellationToken;

use super::{Connection, Listener};
use crate::shutdown::Shutdown;

/// After an accept error (no file descriptors left, say) this long passes before the next try.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// How often an idle connection is asked to end while a place is wanted.
const PLACE_WAIT: Duration = Duration::from_millis(50);

/// Accepts until the endpoints close, at most `max_connections` at once. Each connection is served by a task of
/// its own. `serve` ends its connection when [`Activity::is_over`] resolves, after the calls that run on it.
pub async fn accept_loop<S, F>(listener: Listener, shutdown: Shutdown, max_connections: usize, serve: S)
where
    S: Fn(Connection, Activity) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let places = Places { free: Arc::new(Semaphore::new(max_connections)), wanted: Arc::default() };
    loop {
        let next = async {
            let place = places.take().await;
            (place, listener.accept().await)
        };
        let (place, accepted) = tokio::select! {
            () = shutdown.closing() => return,
            next = next => next,
        };
        match accepted {
            Ok(connection) => {
                let served = serve(connection, Activity::new(Arc::clone(&places.wanted), shutdown.clone()));
                shutdown.spawn(async move {
                    served.await;
                    // The connection's place is free for another one only now.
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(address = %listener.address(), %error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// The places of one listener.
#[derive(Debug)]
struct Places {
    free: Arc<Semaphore>,
    /// Wakes the connection that has been idle for longest.
    wanted: Arc<Notify>,
}

impl Places {
    async fn take(&self) -> Option<OwnedSemaphorePermit> {
        loop {
            let place = Arc::clone(&self.free).acquire_owned();
            if let Ok(taken) = tokio::time::timeout(PLACE_WAIT, place).await {
                // The semaphore is never closed, so that a place was taken.
                return taken.ok();
            }
            self.wanted.notify_one();
        }
    }
}

/// The calls that run on one connection. All clones stand for the same connection.
#[derive(Debug, Clone)]
pub struct Activity {
    state: Arc<watch::Sender<ConnectionState>>,
    wanted: Arc<Notify>,
    shutdown: Shutdown,
}

#[derive(Debug, Default)]
struct ConnectionState {
    running: usize,
    has_served: bool,
    /// Ends with the build that the connection's last request was signed for.
    owner: Option<CancellationToken>,
}

impl ConnectionState {
    fn is_idle(&self) -> bool {
        self.has_served && self.running == 0
    }
}

impl Activity {
    fn new(wanted: Arc<Notify>, shutdown: Shutdown) -> Self {
        Self { state: Arc::default(), wanted, shutdown }
    }

    /// A call begins. It ends when the guard is dropped.
    #[must_use]
    pub fn begin(&self) -> RunningCall {
        self.state.send_modify(|state| {
            state.running += 1;
            state.has_served = true;
        });
        RunningCall(Arc::clone(&self.state))
    }

    /// The connection is of no more use once `owner` is cancelled.
    pub fn belongs_to(&self, owner: CancellationToken) {
        self.state.send_modify(|state| state.owner = Some(owner));
    }

    /// Resolves when the connection is to end, after the calls that run on it: when the endpoints close, when the build
    /// that it belongs to is over, or when it is idle and its place is wanted.
    pub async fn is_over(&self) {
        let mut state = self.state.subscribe();
        loop {
            let (idle, owner) = {
                // Borrowed no longer than this block: the lock must not be held across the wait below.
                let state = state.borrow_and_update();
                (state.is_idle(), state.owner.clone())
            };
            tokio::select! {
                () = self.shutdown.closing() => return,
                () = self.wanted.notified(), if idle => return,
                () = cancelled(owner) => return,
                // This activity keeps a sender, so that there can always be another change.
                _ = state.changed() => {}
            }
        }
    }
}

async fn cancelled(owner: Option<CancellationToken>) {
    match owner {
        Some(owner) => owner.cancelled().await,
        None => std::future::pending().await,
    }
}

/// A call that runs.
#[derive(Debug)]
pub struct RunningCall(Arc<watch::Sender<ConnectionState>>);

impl RunningCall {
    /// The call goes on until its response has been sent.
    pub fn answered<B>(self, response: http::Response<B>) -> http::Response<CountedBody<B>> {
        response.map(|body| CountedBody { body, _running: self })
    }
}

impl Drop for RunningCall {
    fn drop(&mut self) {
        self.0.send_modify(|state| state.running -= 1);
    }
}

/// The body of a response whose call runs until this is sent, or dropped.
#[derive(Debug)]
pub struct CountedBody<B> {
    body: B,
    _running: RunningCall,
}

impl<B: Body + Unpin> Body for CountedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
