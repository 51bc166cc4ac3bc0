//! Makes a local S3 server look like S3: a TCP proxy that limits each connection to a rate, both ways, and holds
//! back the first byte of each response. It also counts what passes: connections, bytes, requests by method.
//!
//! Two blocking threads serve a connection. That costs less CPU than an event loop at a few dozen connections, and
//! CPU is what the processes under test compete for.

use std::collections::BTreeMap;
use std::io::{self, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde::Serialize;

/// How many bytes are moved at once. At 90 MB/s that takes 3 ms.
const CHUNK: usize = 256 << 10;
/// How far a connection may lag behind its rate and catch up: covers a late wake-up, and no more.
const SLACK: Duration = Duration::from_millis(5);
const METHODS: [&str; 5] = ["GET", "HEAD", "PUT", "POST", "DELETE"];

/// What a connection is like.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Network {
    /// The rate of each connection, in each direction.
    pub(crate) bytes_per_second: f64,
    /// Added before the first byte of each response.
    pub(crate) latency: Duration,
}

/// What has passed since the start.
#[derive(Debug, Clone, Default, Serialize)]
pub(crate) struct Traffic {
    pub(crate) connections: u64,
    pub(crate) requests: BTreeMap<&'static str, u64>,
    pub(crate) bytes_up: u64,
    pub(crate) bytes_down: u64,
}

/// A running proxy. Dropping it closes every connection.
#[derive(Debug)]
pub(crate) struct Shaper {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    network: Network,
    stopped: AtomicBool,
    streams: Mutex<Vec<TcpStream>>,
    connections: AtomicU64,
    requests: [AtomicU64; METHODS.len()],
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

impl Shaper {
    pub(crate) fn start(upstream: SocketAddr, network: Network) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let shared = Arc::new(Shared {
            upstream,
            network,
            stopped: AtomicBool::new(false),
            streams: Mutex::default(),
            connections: AtomicU64::default(),
            requests: Default::default(),
            bytes_up: AtomicU64::default(),
            bytes_down: AtomicU64::default(),
        });
        let shaper = Self { address: listener.local_addr()?, shared: Arc::clone(&shared) };
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if shared.stopped.load(Ordering::Acquire) {
                    break;
                }
                // A refused upstream shows at the client as a closed connection.
                let _ = connect(&shared, client);
            }
        });
        Ok(shaper)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn traffic(&self) -> Traffic {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Traffic {
            connections: count(&self.shared.connections),
            requests: METHODS.into_iter().zip(self.shared.requests.iter().map(count)).filter(|(_, requests)| *requests > 0).collect(),
            bytes_up: count(&self.shared.bytes_up),
            bytes_down: count(&self.shared.bytes_down),
        }
    }
}

impl Traffic {
    pub(crate) fn since(mut self, before: &Self) -> Self {
        for (method, count) in &mut self.requests {
            *count -= before.requests.get(method).copied().unwrap_or_default();
        }
        self.requests.retain(|_, count| *count > 0);
        self.connections -= before.connections;
        self.bytes_up -= before.bytes_up;
        self.bytes_down -= before.bytes_down;
        self
    }
}

impl Drop for Shaper {
    fn drop(&mut self) {
        self.shared.stopped.store(true, Ordering::Release);
        // Wakes the accepting thread.
        let _ = TcpStream::connect(self.address);
        for stream in self.shared.streams.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

fn connect(shared: &Arc<Shared>, client: TcpStream) -> io::Result<()> {
    let server = TcpStream::connect(shared.upstream)?;
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    shared.streams.lock().unwrap_or_else(PoisonError::into_inner).extend([client.try_clone()?, server.try_clone()?]);
    shared.connections.fetch_add(1, Ordering::Relaxed);
    // Whether a request waits for its response.
    let asked = Arc::new(AtomicBool::new(false));
    let up_from = client.try_clone()?;
    let up_to = server.try_clone()?;
    let (up_shared, up_asked) = (Arc::clone(shared), Arc::clone(&asked));
    std::thread::spawn(move || {
        pump(up_from, up_to, up_shared.network, |bytes| {
            if !up_asked.swap(true, Ordering::AcqRel) {
                up_shared.count_request(bytes);
            }
            up_shared.bytes_up.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        });
    });
    let down_shared = Arc::clone(shared);
    std::thread::spawn(move || {
        pump(server, client, down_shared.network, |bytes| {
            if asked.swap(false, Ordering::AcqRel) {
                std::thread::sleep(down_shared.network.latency);
            }
            down_shared.bytes_down.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        });
    });
    Ok(())
}

impl Shared {
    /// Counts what begins like a request. A body that goes on after `100 Continue` does not.
    fn count_request(&self, bytes: &[u8]) {
        let is = |method: &str| bytes.strip_prefix(method.as_bytes()).is_some_and(|rest| rest.starts_with(b" /"));
        if let Some((_, count)) = METHODS.into_iter().zip(&self.requests).find(|(method, _)| is(method)) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// Copies one direction to its end, `seen` before each chunk is passed on.
fn pump(mut from: TcpStream, mut to: TcpStream, network: Network, seen: impl Fn(&[u8])) {
    let mut buffer = vec![0; CHUNK];
    let mut due = Instant::now();
    let ended = loop {
        let chunk = match from.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(length) => &buffer[..length],
            Err(error) => break Err(error),
        };
        seen(chunk);
        if let Err(error) = to.write_all(chunk) {
            break Err(error);
        }
        let now = Instant::now();
        due = due.max(now.checked_sub(SLACK).unwrap_or(now)) + Duration::from_secs_f64(chunk.len() as f64 / network.bytes_per_second);
        std::thread::sleep(due.saturating_duration_since(now));
    };
    // The end of one direction is passed on; after an error the other direction is of no use either.
    let _ = match ended {
        Ok(()) => to.shutdown(Shutdown::Write),
        Err(_) => from.shutdown(Shutdown::Both).and(to.shutdown(Shutdown::Both)),
    };
}
