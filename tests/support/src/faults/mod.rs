//! A proxy between a client of S3 and its store that does to the traffic what networks and stores do.
//!
//! [`Rule`]s harm single requests, at a rate and by a seed; [`Link`] is the state of the line as a whole.
//! Both are changed while traffic passes. What came through is counted by kind.

mod passage;
mod rules;
mod seed;
mod server;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use tokio::sync::{oneshot, watch};

pub use rules::{Fault, Rule};
pub use seed::seed;

/// The line between the client and the store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Link {
    /// It works, apart from what the rules do.
    Up,
    /// Nobody listens, and what was connected is cut.
    Refused,
    /// Connections are accepted and nothing passes, either way, until the line is up again.
    Dark,
}

/// A running proxy. Dropping it cuts every connection.
#[derive(Debug)]
pub struct FaultProxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    /// The proxy runs until this is dropped.
    _running: oneshot::Sender<()>,
}

/// What every connection looks at.
#[derive(Debug)]
struct Shared {
    upstream: SocketAddr,
    link: watch::Sender<Link>,
    rules: Mutex<Vec<Rule>>,
    dice: Mutex<StdRng>,
    counts: Mutex<BTreeMap<&'static str, u64>>,
}

impl FaultProxy {
    /// Starts one in front of `http://host:port`, which need not be there yet.
    pub fn start(upstream: &str, seed: u64) -> Self {
        Self::start_on("127.0.0.1", upstream, seed)
    }

    /// As [`Self::start`], on another address of this machine.
    pub fn start_on(ip: &str, upstream: &str, seed: u64) -> Self {
        let upstream = upstream.trim_start_matches("http://").parse().expect("the upstream is http://address:port");
        let listener = std::net::TcpListener::bind((ip, 0)).expect("a port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            upstream,
            link: watch::Sender::new(Link::Up),
            rules: Mutex::default(),
            dice: Mutex::new(StdRng::seed_from_u64(seed)),
            counts: Mutex::default(),
        });
        let (running, dropped) = oneshot::channel();
        server::run(listener, Arc::clone(&shared), dropped);
        Self { address, shared, _running: running }
    }

    /// What a client is given in place of the store's own URL.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Replaces the rules. To a request applies the first rule that matches it and whose dice say so.
    pub fn set_rules(&self, rules: Vec<Rule>) {
        *self.shared.rules.lock().expect("lock") = rules;
    }

    /// Sets the state of the line.
    pub fn set_link(&self, link: Link) {
        self.shared.link.send_replace(link);
    }

    /// The state of the line.
    pub fn link(&self) -> Link {
        *self.shared.link.borrow()
    }

    /// How often each kind of request and each fault was seen: by the method, `LIST`, or the fault's name.
    pub fn counts(&self) -> BTreeMap<&'static str, u64> {
        self.shared.counts.lock().expect("lock").clone()
    }

    /// How many requests were harmed.
    pub fn harmed(&self) -> u64 {
        self.counts().iter().filter(|(kind, _)| Fault::NAMES.contains(kind)).map(|(_, count)| count).sum()
    }
}

impl Shared {
    fn count(&self, kind: &'static str) {
        *self.counts.lock().expect("lock").entry(kind).or_default() += 1;
    }

    /// What befalls a request, by its method and its path with the query.
    fn fault(&self, method: &str, path: &str) -> Option<Fault> {
        let rules = self.rules.lock().expect("lock");
        let mut dice = self.dice.lock().expect("lock");
        rules.iter().find(|rule| rule.matches(method, path) && dice.random_bool(rule.rate)).map(|rule| rule.fault)
    }

    /// An offset into a body of `len` bytes.
    fn offset(&self, len: u64) -> u64 {
        if len == 0 { 0 } else { self.dice.lock().expect("lock").random_range(0..len) }
    }
}

/// Waits while nothing passes.
async fn passable(link: &mut watch::Receiver<Link>) {
    // The sender lives as long as the proxy; without it nothing passes any more.
    if link.wait_for(|link| *link != Link::Dark).await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// Long enough for what was sent before to be on its way.
const FLUSH: Duration = Duration::from_millis(20);
