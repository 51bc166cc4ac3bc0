//! Finds a TCP port for a server that must know its own before it starts, or keep it over a restart.

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

/// Below 32768, where Linux begins to take ports for connections and for listeners that ask for any: one of those
/// could have the port by the time that the server starts.
const FIRST: u32 = 20_000;
const COUNT: u32 = 12_000;

static GIVEN: AtomicU32 = AtomicU32::new(0);

/// A port on loopback that nothing listens on, and that this process has not given out before.
pub fn free_port() -> u16 {
    // Programs that run at once begin at different places.
    let start = std::process::id().wrapping_mul(100);
    (0..COUNT)
        .map(|_| start.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)))
        .filter_map(|number| u16::try_from(FIRST + number % COUNT).ok())
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("a free port")
}
