//! Requests to the content endpoint, and what comes of them.

use std::fmt::Display;
use std::time::Duration;

use remora::proto::content as api;
use remora::types::Digest;
use tonic::Code;

use super::endpoint::{Endpoint, Write};

/// Asks for a part of a blob. It goes to the blob's end where `size` is 0.
pub(super) fn read(digest: &dyn Display, offset: i64, size: i64) -> api::ReadContentRequest {
    api::ReadContentRequest { digest: digest.to_string(), offset, size }
}

/// The bytes of a read, and how large its messages were.
pub(super) async fn read_all(endpoint: &Endpoint, request: api::ReadContentRequest) -> Result<(Vec<u8>, Vec<usize>), tonic::Status> {
    let mut offset = request.offset;
    let mut data = Vec::new();
    let mut sizes = Vec::new();
    let mut stream = endpoint.content().read(request).await?.into_inner();
    while let Some(message) = stream.message().await? {
        assert_eq!(message.offset, offset);
        offset += i64::try_from(message.data.len()).unwrap();
        sizes.push(message.data.len());
        data.extend_from_slice(&message.data);
    }
    Ok((data, sizes))
}

/// Bytes of a blob.
pub(super) fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at * 31 % 251).unwrap()).collect()
}

pub(super) async fn info(endpoint: &Endpoint, digest: &Digest) -> Result<api::Info, tonic::Status> {
    let request = api::InfoRequest { digest: digest.to_string() };
    endpoint.content().info(request).await.map(|response| response.into_inner().info.unwrap())
}

pub(super) async fn status(endpoint: &Endpoint, reference: &str) -> Result<api::Status, tonic::Status> {
    let request = api::StatusRequest { r#ref: reference.to_owned() };
    endpoint.content().status(request).await.map(|response| response.into_inner().status.unwrap())
}

/// Tries until nobody holds the ref: a server learns of a cancelled stream in its own time.
pub(super) async fn open_free(endpoint: &Endpoint, request: api::WriteContentRequest) -> (Write, api::WriteContentResponse) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let mut stream = endpoint.write().await;
        match stream.exchange(request.clone()).await {
            Ok(answer) => return (stream, answer),
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
        }
        assert!(tokio::time::Instant::now() < deadline, "the ref stays locked");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}
