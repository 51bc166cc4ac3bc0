//! How commands reach a running remora: through its admin endpoint.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::failure::Failure;
use crate::types::Address;

/// Longer than the checks behind `/readyz` may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// Answers are far smaller than this.
const MAX_ANSWER_BYTES: usize = 1 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct AdminArgs {
    /// The admin endpoint of the remora to ask; of several, the first
    #[arg(
        long,
        value_name = "ADDR",
        env = "REMORA_ADMIN",
        hide_env_values = true,
        value_delimiter = ',',
        default_value = "tcp://127.0.0.1:9191"
    )]
    admin: Vec<String>,
}

/// The answer of a remora, and its address.
pub(super) struct Answer {
    pub(super) address: Address,
    pub(super) status: StatusCode,
    pub(super) body: Bytes,
}

impl AdminArgs {
    /// Asks for `path`.
    pub(super) async fn get(&self, path: &'static str) -> Result<Answer, Failure> {
        let text = self.admin.first().map_or("", String::as_str);
        let address: Address = text.parse().map_err(|error| Failure::Usage(format!("--admin: {error}")))?;
        let asked = tokio::time::timeout(TIMEOUT, ask(&address, path)).await;
        let (status, body) = asked.with_context(|| format!("{address} gave no answer in {} s", TIMEOUT.as_secs()))??;
        Ok(Answer { address, status, body })
    }
}

async fn ask(address: &Address, path: &'static str) -> anyhow::Result<(StatusCode, Bytes)> {
    let unreachable = || format!("cannot reach the admin endpoint at {address}");
    match address {
        Address::Unix(socket) => get(UnixStream::connect(socket).await.with_context(unreachable)?, path).await,
        Address::Tcp(host_port) => get(TcpStream::connect(host_port).await.with_context(unreachable)?, path).await,
    }
}

async fn get(stream: impl AsyncRead + AsyncWrite + Unpin, path: &'static str) -> anyhow::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async move {
        let request = Request::get(path).header(http::header::HOST, "remora").body(Empty::<Bytes>::new())?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(anyhow::Error::from_boxed)?;
        // Ends the connection, which would otherwise wait for the next request.
        drop(sender);
        anyhow::Ok((head.status, body.to_bytes()))
    };
    let (answer, _) = futures_util::future::join(exchange, connection).await;
    answer
}
