//! Connections that remora's endpoints hold open, as the kernel lists them.

use std::path::Path;

/// The states of a TCP connection for which a server has a descriptor: established, and closed by the other side.
const OPEN: [&str; 2] = ["01", "08"];
/// The state of a connected Unix socket.
const CONNECTED: &str = "03";

/// How many there are at each endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Connections {
    pub s3: usize,
    pub control: usize,
}

impl Connections {
    pub fn at(s3_port: u16, control: &Path) -> Self {
        Self { s3: at_port(s3_port), control: at_socket(control) }
    }

    pub fn total(self) -> usize {
        self.s3 + self.control
    }

    pub fn is_no_more_than(self, before: Self) -> bool {
        self.max(before) == before
    }

    /// The larger of the two numbers at each endpoint.
    pub fn max(self, other: Self) -> Self {
        Self { s3: self.s3.max(other.s3), control: self.control.max(other.control) }
    }
}

fn at_port(port: u16) -> usize {
    let port = format!(":{port:04X}");
    // Number, local address, remote address, state.
    let is_open = |fields: &[&str]| matches!(fields, [_, local, _, state, ..] if local.ends_with(&port) && OPEN.contains(state));
    count("/proc/net/tcp", is_open)
}

fn at_socket(path: &Path) -> usize {
    let path = path.to_str().expect("text");
    // Address, references, protocol, flags, type, state, inode, path. A client's socket has no path.
    count("/proc/net/unix", |fields| matches!(fields, [_, _, _, _, _, CONNECTED, _, at] if *at == path))
}

fn count(table: &str, is_open: impl Fn(&[&str]) -> bool) -> usize {
    let table = std::fs::read_to_string(table).expect("the kernel's table");
    table.lines().filter(|line| is_open(&line.split_whitespace().collect::<Vec<_>>())).count()
}
