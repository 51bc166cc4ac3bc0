//! Addresses to listen on or to connect to.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use super::Invalid;

/// `unix:///path` or `tcp://host:port`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Address {
    /// The absolute path of a Unix socket.
    Unix(PathBuf),
    /// A host name or IP address (IPv6 in brackets), a colon, and a port.
    Tcp(String),
}

impl Address {
    /// Whether it can be reached only from this machine.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Unix(_) => true,
            Self::Tcp(host_port) => {
                let host = host_port.rsplit_once(':').map_or("", |(host, _)| host);
                host == "localhost" || host.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
        }
    }
}

impl FromStr for Address {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let refuse = || Invalid::new("address", text, "want unix:///absolute/path or tcp://host:port");
        if let Some(path) = text.strip_prefix("unix://") {
            return if path.starts_with('/') && path.len() > 1 { Ok(Self::Unix(path.into())) } else { Err(refuse()) };
        }
        let host_port = text.strip_prefix("tcp://").ok_or_else(refuse)?;
        match host_port.rsplit_once(':') {
            Some((host, port)) if !host.is_empty() && !host.contains('/') && port.parse::<u16>().is_ok() => {
                Ok(Self::Tcp(host_port.to_owned()))
            }
            _ => Err(refuse()),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix://{}", path.display()),
            Self::Tcp(host_port) => write!(f, "tcp://{host_port}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_both_kinds_and_refuses_the_rest() {
        for good in ["unix:///run/remora/control.sock", "tcp://127.0.0.1:0", "tcp://[::1]:9190", "tcp://remora:9190"] {
            assert_eq!(good.parse::<Address>().map(|address| address.to_string()), Ok(good.to_owned()));
        }
        for bad in ["", "/run/x.sock", "unix://relative", "unix:///", "tcp://host", "tcp://:80", "tcp://host:port", "http://host:80"] {
            assert!(bad.parse::<Address>().is_err(), "{bad}");
        }
    }

    #[test]
    fn knows_loopback() {
        let local = |text: &str| text.parse::<Address>().is_ok_and(|address| address.is_local());
        assert!(local("tcp://127.0.0.1:1") && local("tcp://[::1]:1") && local("tcp://localhost:1") && local("unix:///x"));
        assert!(!local("tcp://0.0.0.0:1") && !local("tcp://remora:1"));
    }
}
