//! A gate in front of a control socket: one kind of call waits there until the gate opens.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hyper::body::Incoming;
use hyper::client::conn::http2::{self as client, SendRequest};
use hyper::server::conn::http2 as server;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use remora::shutdown::Shutdown;
use tokio::net::{UnixListener as Listener, UnixStream};
use tokio::sync::watch;

use super::calls::SESSION;

/// Takes the place of a socket. Dropping it removes both sockets: what listened there has ended by then.
#[derive(Debug)]
pub struct Gate {
    socket: PathBuf,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Where the socket is meanwhile.
    behind: PathBuf,
    /// The path of the calls that wait.
    call: &'static str,
    /// How many of these calls pass before one waits.
    passing: usize,
    seen: watch::Sender<Seen>,
    tasks: Shutdown,
}

#[derive(Debug, Clone, Copy, Default)]
struct Seen {
    /// Calls that came, and passed or wait.
    calls: usize,
    /// Sessions that were answered.
    sessions: usize,
    /// Whether the gate is open.
    open: bool,
}

impl Gate {
    /// From now on calls of this path wait, except for the first `passing` of them.
    pub fn before(socket: &Path, call: &'static str, passing: usize) -> Self {
        let behind = socket.with_extension("behind");
        std::fs::rename(socket, &behind).expect("a socket");
        let listener = UnixListener::bind(socket).expect("the gate");
        let shared = Arc::new(Shared { behind, call, passing, seen: watch::Sender::default(), tasks: Shutdown::default() });
        run(listener, Arc::clone(&shared));
        Self { socket: socket.to_path_buf(), shared }
    }

    /// Whether a call waits, and its client has a session.
    pub fn is_reached(&self) -> bool {
        let seen = *self.shared.seen.borrow();
        seen.calls > self.shared.passing && seen.sessions > self.shared.passing
    }

    pub fn open(&self) {
        self.shared.seen.send_modify(|seen| seen.open = true);
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        self.shared.tasks.stop();
        for socket in [&self.socket, &self.shared.behind] {
            // remora has removed its own socket, if nobody took its place.
            let _ = std::fs::remove_file(socket);
        }
    }
}

/// In a thread of its own: the tests are synchronous.
fn run(listener: UnixListener, shared: Arc<Shared>) {
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(async {
            shared.tasks.spawn(accept(listener, Arc::clone(&shared)));
            shared.tasks.draining().await;
            shared.tasks.finish(Duration::ZERO).await;
        });
    });
}

async fn accept(listener: UnixListener, shared: Arc<Shared>) {
    listener.set_nonblocking(true).expect("nonblocking");
    let listener = Listener::from_std(listener).expect("listener");
    while let Ok((client, _)) = listener.accept().await {
        let shared = Arc::clone(&shared);
        shared.tasks.clone().spawn(async move {
            // Its errors are those of the two ends.
            let _ = serve(client, shared).await;
        });
    }
}

/// Joins a client's connection to one of its own to remora.
async fn serve(client: UnixStream, shared: Arc<Shared>) -> io::Result<()> {
    let remora = TokioIo::new(UnixStream::connect(&shared.behind).await?);
    let (sender, connection) = client::handshake(shared.tasks.clone(), remora).await.map_err(io::Error::other)?;
    shared.tasks.spawn(async {
        let _ = connection.await;
    });
    let tasks = shared.tasks.clone();
    let answer = service_fn(move |request| pass(request, sender.clone(), Arc::clone(&shared)));
    server::Builder::new(tasks).serve_connection(TokioIo::new(client), answer).await.map_err(io::Error::other)
}

async fn pass(request: Request<Incoming>, mut remora: SendRequest<Incoming>, shared: Arc<Shared>) -> hyper::Result<Response<Incoming>> {
    let is_session = request.uri().path() == SESSION;
    if request.uri().path() == shared.call {
        shared.seen.send_modify(|seen| seen.calls += 1);
        // The sender lives as long as this.
        let _ = shared.seen.subscribe().wait_for(|seen| seen.open || seen.calls <= shared.passing).await;
    }
    let response = remora.send_request(request).await?;
    if is_session {
        shared.seen.send_modify(|seen| seen.sessions += 1);
    }
    Ok(response)
}
