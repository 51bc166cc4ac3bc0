//! Clients that read and write through remora's endpoints without a build.

use std::net::SocketAddr;

use anyhow::Result;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region, RequestChecksumCalculation, ResponseChecksumValidation};
use remora::proto::content::ReadContentRequest;
use remora::proto::content::content_client::ContentClient;
use remora_test_support::minio::{ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY};
use tonic::transport::Channel;

/// Makes one Read call of the content endpoint. Returns how many bytes came.
pub(crate) async fn read_content(channel: Channel, request: ReadContentRequest) -> Result<u64> {
    let mut stream = ContentClient::new(channel).max_decoding_message_size(usize::MAX).read(request).await?.into_inner();
    let mut received = 0;
    while let Some(message) = stream.message().await? {
        received += message.data.len() as u64;
    }
    Ok(received)
}

/// A client of an S3 server, or of a remora's s3 endpoint.
pub(crate) fn client(address: SocketAddr) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .endpoint_url(format!("http://{address}"))
        .force_path_style(true)
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        .credentials_provider(Credentials::new(ACCESS_KEY_ID, SECRET_ACCESS_KEY, None, None, "bench"))
        .http_client(aws_smithy_http_client::Builder::new().build_http());
    aws_sdk_s3::Client::from_conf(config.build())
}
