//! `remora health`: asks a running remora whether it is ready, for containers that have no other program.

use std::time::Duration;

use anyhow::Context as _;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::Failure;
use crate::admin::Report;
use crate::types::Address;

/// Longer than the checks behind `/readyz` may take.
const TIMEOUT: Duration = Duration::from_secs(5);
/// A report is far smaller.
const MAX_REPORT_BYTES: usize = 1 << 20;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
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

pub(super) async fn run(args: &Args) -> Result<(), Failure> {
    let text = args.admin.first().map_or("", String::as_str);
    let address: Address = text.parse().map_err(|error| Failure::Usage(format!("--admin: {error}")))?;
    let asked = tokio::time::timeout(TIMEOUT, ask(&address)).await;
    let (status, body) = asked.with_context(|| format!("{address} gave no answer in {} s", TIMEOUT.as_secs()))??;
    if status == StatusCode::OK {
        return Ok(());
    }
    let causes = match serde_json::from_slice::<Report>(&body) {
        Ok(report) => report.checks.into_iter().filter_map(|check| Some(format!("{}: {}", check.name, check.cause?))).collect(),
        Err(_) => vec![format!("{address} answered {status}")],
    };
    Err(Failure::Failed(anyhow::anyhow!("not ready: {}", causes.join("; "))))
}

async fn ask(address: &Address) -> anyhow::Result<(StatusCode, Bytes)> {
    let unreachable = || format!("cannot reach the admin endpoint at {address}");
    match address {
        Address::Unix(path) => get_readyz(UnixStream::connect(path).await.with_context(unreachable)?).await,
        Address::Tcp(host_port) => get_readyz(TcpStream::connect(host_port).await.with_context(unreachable)?).await,
    }
}

async fn get_readyz(stream: impl AsyncRead + AsyncWrite + Unpin) -> anyhow::Result<(StatusCode, Bytes)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await?;
    let exchange = async move {
        let request = Request::get("/readyz").header(http::header::HOST, "remora").body(Empty::<Bytes>::new())?;
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_REPORT_BYTES).collect().await.map_err(anyhow::Error::from_boxed)?;
        // Without it, the connection would wait for the next request.
        drop(sender);
        anyhow::Ok((head.status, body.to_bytes()))
    };
    let (answer, _) = futures_util::future::join(exchange, connection).await;
    answer
}
