//! Listening sockets and what they accept.

use std::fmt;
use std::io;
use std::os::unix::fs::{FileTypeExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::types::Address;

/// Why an address could not be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address}: {reason}")]
pub struct BindError {
    address: Address,
    reason: String,
}

/// A bound socket. A Unix socket's path is removed when this is dropped.
#[derive(Debug)]
pub struct Listener {
    address: Address,
    socket: Socket,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        #[expect(dead_code, reason = "removes the path when dropped")]
        path: SocketPath,
    },
}

/// Removes the path of a socket when dropped, unless another file has been put there since.
#[derive(Debug)]
struct SocketPath {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketPath {
    fn drop(&mut self) {
        if inode(&self.path) == Some(self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

fn inode(path: &Path) -> Option<u64> {
    std::fs::symlink_metadata(path).ok().map(|meta| std::os::unix::fs::MetadataExt::ino(&meta))
}

impl Listener {
    /// Binds `address`. A socket path that a killed process left behind is taken over; one on which another process
    /// listens is not.
    ///
    /// # Errors
    /// [`BindError`], which says what is in the way.
    pub async fn bind(address: &Address) -> Result<Self, BindError> {
        let failed = |reason: String| BindError { address: address.clone(), reason };
        match address {
            Address::Tcp(host_port) => {
                let listener = TcpListener::bind(host_port).await.map_err(|error| failed(error.to_string()))?;
                let bound = listener.local_addr().map_err(|error| failed(error.to_string()))?;
                Ok(Self { address: Address::Tcp(bound.to_string()), socket: Socket::Tcp(listener) })
            }
            Address::Unix(path) => {
                clear_stale_socket(path).await.map_err(failed)?;
                if let Some(parent) = path.parent() {
                    std::fs::create_dir_all(parent).map_err(|error| failed(format!("cannot make its folder: {error}")))?;
                }
                let listener = UnixListener::bind(path).map_err(|error| failed(error.to_string()))?;
                // The owner and the group may connect, as with BuildKit's own socket.
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660)).map_err(|error| failed(error.to_string()))?;
                let guard = SocketPath { inode: inode(path).unwrap_or_default(), path: path.clone() };
                Ok(Self { address: address.clone(), socket: Socket::Unix { listener, path: guard } })
            }
        }
    }

    /// The address as bound, with the port that the system chose where the address had port 0.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }

    pub(super) async fn accept(&self) -> io::Result<Connection> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok(Connection::Tcp(stream))
            }
            Socket::Unix { listener, .. } => Ok(Connection::Unix(listener.accept().await?.0)),
        }
    }
}

async fn clear_stale_socket(path: &Path) -> Result<(), String> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(meta) if !meta.file_type().is_socket() => Err("a file that is not a socket is in the way".to_owned()),
        Ok(_) => match UnixStream::connect(path).await {
            Ok(_) => Err("another process listens on it".to_owned()),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                tracing::info!(socket.path = %path.display(), "taking over a socket that a stopped process left behind");
                std::fs::remove_file(path).map_err(|error| format!("cannot remove the stale socket: {error}"))
            }
            Err(error) => Err(format!("cannot tell whether it is in use: {error}")),
        },
    }
}

/// An accepted connection.
#[derive(Debug)]
pub enum Connection {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

impl AsyncRead for Connection {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Connection {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(self: Pin<&mut Self>, cx: &mut Context<'_>, bufs: &[io::IoSlice<'_>]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Self::Unix(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

impl fmt::Display for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(stream) => match stream.peer_addr() {
                Ok(peer) => write!(f, "{peer}"),
                Err(_) => f.write_str("tcp"),
            },
            Self::Unix(_) => f.write_str("unix"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn takes_over_a_stale_socket_and_refuses_a_live_one() {
        let dir = tempfile::tempdir().unwrap();
        let address: Address = format!("unix://{}/x.sock", dir.path().display()).parse().unwrap();
        let first = Listener::bind(&address).await.unwrap();
        let error = Listener::bind(&address).await.unwrap_err().to_string();
        assert!(error.contains("another process listens"), "{error}");
        drop(first);
        drop(std::os::unix::net::UnixListener::bind(dir.path().join("x.sock")).unwrap());
        assert!(dir.path().join("x.sock").exists());
        drop(Listener::bind(&address).await.unwrap());
        assert!(!dir.path().join("x.sock").exists());
        std::fs::write(dir.path().join("x.sock"), "").unwrap();
        assert!(Listener::bind(&address).await.unwrap_err().to_string().contains("not a socket"));
    }
}
