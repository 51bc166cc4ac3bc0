//! A content service that keeps nothing. It shows what tonic and HTTP/2 alone take for the same messages.

use std::net::SocketAddr;
use std::pin::Pin;

use anyhow::Result;
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _, stream};
use remora::proto::content as api;
use remora::proto::content::content_server::{Content, ContentServer};
use tokio::runtime::Runtime;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

/// The windows of remora's content endpoint. HTTP/2's default would hold a stream at 64 KiB.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;

/// The server, on threads of its own. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    _runtime: Runtime,
}

impl Server {
    /// Starts one whose messages have `chunk_bytes` bytes.
    pub(crate) fn start(chunk_bytes: usize) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
        let incoming = {
            let _entered = runtime.enter();
            TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0)))?.with_nodelay(Some(true))
        };
        let address = incoming.local_addr()?;
        let content = ContentServer::new(Bare(vec![0; chunk_bytes].into())).max_decoding_message_size(usize::MAX);
        let server = tonic::transport::Server::builder()
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .add_service(content);
        runtime.spawn(server.serve_with_incoming(incoming));
        Ok(Self { address, _runtime: runtime })
    }
}

/// Sends these bytes again and again, and drops what it gets.
#[derive(Debug)]
struct Bare(Bytes);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

fn unimplemented<T>() -> Result<Response<T>, Status> {
    Err(Status::unimplemented("bare"))
}

#[tonic::async_trait]
impl Content for Bare {
    type ListStream = Answers<api::ListContentResponse>;
    type ReadStream = Answers<api::ReadContentResponse>;
    type WriteStream = Answers<api::WriteContentResponse>;

    async fn read(&self, request: Request<api::ReadContentRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let data = self.0.clone();
        let bytes = request.get_ref().size;
        let step = data.len();
        let offsets = (0..bytes).step_by(step);
        let messages = offsets.map(move |offset| Ok(api::ReadContentResponse { offset, data: data.clone() }));
        Ok(Response::new(stream::iter(messages).boxed()))
    }

    async fn write(&self, request: Request<Streaming<api::WriteContentRequest>>) -> Result<Response<Self::WriteStream>, Status> {
        let answer = |request: api::WriteContentRequest| api::WriteContentResponse {
            action: request.action,
            offset: request.offset + i64::try_from(request.data.len()).unwrap_or_default(),
            ..Default::default()
        };
        Ok(Response::new(request.into_inner().map(move |request| request.map(answer)).boxed()))
    }

    async fn info(&self, _: Request<api::InfoRequest>) -> Result<Response<api::InfoResponse>, Status> {
        unimplemented()
    }

    async fn update(&self, _: Request<api::UpdateRequest>) -> Result<Response<api::UpdateResponse>, Status> {
        unimplemented()
    }

    async fn list(&self, _: Request<api::ListContentRequest>) -> Result<Response<Self::ListStream>, Status> {
        unimplemented()
    }

    async fn delete(&self, _: Request<api::DeleteContentRequest>) -> Result<Response<()>, Status> {
        unimplemented()
    }

    async fn status(&self, _: Request<api::StatusRequest>) -> Result<Response<api::StatusResponse>, Status> {
        unimplemented()
    }

    async fn list_statuses(&self, _: Request<api::ListStatusesRequest>) -> Result<Response<api::ListStatusesResponse>, Status> {
        unimplemented()
    }

    async fn abort(&self, _: Request<api::AbortRequest>) -> Result<Response<()>, Status> {
        unimplemented()
    }
}
