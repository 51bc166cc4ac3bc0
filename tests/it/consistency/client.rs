//! A remora that can be killed, with its content and s3 endpoints on fixed ports, and calls of both.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{RequestChecksumCalculation, ResponseChecksumValidation};
use aws_sdk_s3::error::{ProvideErrorMetadata, SdkError};
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{CompletedMultipartUpload, CompletedPart};
use remora::proto::cache::manifests_client::ManifestsClient;
use remora::proto::content::content_client::ContentClient;
use remora::proto::content::{DeleteContentRequest, ReadContentRequest, WriteAction, WriteContentRequest};
use remora::types::Digest;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::support::minio::{ACCESS_KEY_ID, SECRET_ACCESS_KEY, client};
use crate::support::ports::free_port;
use crate::support::sidecar::Sidecar;

const KEY: &str = "chaos";
const SECRET: &str = "secret-of-chaos";
/// Larger blobs are written to the s3 endpoint in parts of this size; S3's smallest.
const PART: usize = 5 << 20;
/// Bytes of one message to the content endpoint.
const MESSAGE: usize = 1 << 20;

/// Which endpoint a blob goes through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Through {
    S3,
    Content,
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Done,
    Missing,
    /// It can never succeed as it is, and has changed nothing.
    Refused,
    /// Whether it has changed anything is not known.
    Unknown,
}

/// Clients of one remora, which may be killed and started again meanwhile.
#[derive(Clone)]
pub(super) struct Clients {
    s3: Client,
    bucket: String,
    content: ContentClient<Channel>,
    pub(super) manifests: ManifestsClient<Channel>,
}

/// Where the blobs are.
pub(super) enum Store<'a> {
    Directory,
    /// A bucket of MinIO, reached at this URL.
    Minio {
        url: String,
        bucket: &'a str,
        disk_cache: bool,
    },
}

/// Starts a remora on the store.
pub(super) fn start(store: &Store<'_>) -> (Sidecar, Clients) {
    let builder = Sidecar::builder();
    let (s3, content) = (free_port(), free_port());
    let (bucket, configuration) = match store {
        Store::Directory => ("remora", String::new()),
        Store::Minio { url, bucket, disk_cache } => {
            let credentials = format!("access_key_id = \"{}\"\nsecret_access_key_env = \"STORE_SECRET\"", ACCESS_KEY_ID);
            let table = format!("[[buckets]]\nname = \"{bucket}\"\nendpoint = \"{url}\"\nregion = \"us-east-1\"\n{credentials}\n");
            (*bucket, format!("store = \"s3://{bucket}\"\ndisk_cache.enabled = {disk_cache}\n{table}"))
        }
    };
    let key = format!("[[s3.keys]]\naccess_key_id = \"{KEY}\"\nsecret_access_key_env = \"KEY_SECRET\"\n");
    let rights = "rights = [\"exists\", \"read\", \"write\", \"delete\"]\n";
    let file = builder.dir().join("remora.toml");
    std::fs::write(&file, format!("{configuration}{key}{rights}")).unwrap();
    let secret = match store {
        Store::Directory => "",
        Store::Minio { .. } => SECRET_ACCESS_KEY,
    };
    let sidecar = builder
        .flag("config", file.display().to_string())
        .flag("s3", format!("tcp://127.0.0.1:{s3}"))
        .flag("content", format!("tcp://127.0.0.1:{content}"))
        .env("KEY_SECRET", SECRET)
        .env("STORE_SECRET", secret)
        .start();
    let s3 = client(&format!("http://127.0.0.1:{s3}"), KEY, SECRET).config().to_builder().retry_config(RetryConfig::disabled());
    let s3 = s3.response_checksum_validation(ResponseChecksumValidation::WhenRequired);
    let s3 = Client::from_conf(s3.request_checksum_calculation(RequestChecksumCalculation::WhenRequired).build());
    let channel = Endpoint::from_shared(format!("http://127.0.0.1:{content}")).unwrap().connect_lazy();
    let content = ContentClient::new(channel.clone()).max_decoding_message_size(16 << 20);
    (sidecar, Clients { s3, bucket: bucket.to_owned(), content, manifests: ManifestsClient::new(channel) })
}

impl Clients {
    /// The bytes that are read for a digest, if all of them come.
    pub(super) async fn read(&self, through: Through, digest: &Digest) -> Result<Vec<u8>, End> {
        match through {
            Through::S3 => {
                let answer = self.s3.get_object().bucket(&self.bucket).key(key(digest)).send().await.map_err(|error| s3_end(&error))?;
                let size = answer.content_length().unwrap();
                let body = answer.body.collect().await.map_err(|_| End::Unknown)?.to_vec();
                assert_eq!(body.len() as i64, size, "a body that ends well is whole");
                Ok(body)
            }
            Through::Content => {
                let request = ReadContentRequest { digest: digest.to_string(), offset: 0, size: 0 };
                let mut messages = self.content.clone().read(request).await.map_err(|status| content_end(&status))?.into_inner();
                let mut body = Vec::new();
                while let Some(message) = messages.message().await.map_err(|status| content_end(&status))? {
                    assert_eq!(message.offset, body.len() as i64, "in order");
                    body.extend_from_slice(&message.data);
                }
                Ok(body)
            }
        }
    }

    /// Writes bytes as the blob of a digest.
    pub(super) async fn write(&self, through: Through, digest: &Digest, body: &[u8]) -> End {
        match through {
            Through::S3 if body.len() > PART => self.write_parts(digest, body).await.unwrap_or_else(|end| end),
            Through::S3 => {
                let put = self.s3.put_object().bucket(&self.bucket).key(key(digest)).body(ByteStream::from(body.to_vec()));
                put.send().await.map_or_else(|error| s3_end(&error), |_| End::Done)
            }
            Through::Content => {
                let mut messages = self.messages(body);
                messages.push(WriteContentRequest {
                    action: WriteAction::Commit as i32,
                    offset: body.len() as i64,
                    total: body.len() as i64,
                    expected: digest.to_string(),
                    ..Default::default()
                });
                self.send(messages).await
            }
        }
    }

    async fn write_parts(&self, digest: &Digest, body: &[u8]) -> Result<End, End> {
        let bucket = &self.bucket;
        let key = key(digest);
        let begun = self.s3.create_multipart_upload().bucket(bucket).key(&key).send().await.map_err(|error| s3_end(&error))?;
        let id = begun.upload_id().unwrap();
        let mut parts = CompletedMultipartUpload::builder();
        for (number, part) in (1..).zip(body.chunks(PART)) {
            let upload = self.s3.upload_part().bucket(bucket).key(&key).upload_id(id).part_number(number);
            let sent = upload.body(ByteStream::from(part.to_vec())).send().await.map_err(|error| s3_end(&error))?;
            parts = parts.parts(CompletedPart::builder().part_number(number).set_e_tag(sent.e_tag).build());
        }
        let complete = self.s3.complete_multipart_upload().bucket(bucket).key(&key).upload_id(id).multipart_upload(parts.build());
        complete.send().await.map(|_| End::Done).map_err(|error| s3_end(&error))
    }

    /// Writes the first half of a blob and goes away.
    pub(super) async fn write_half(&self, body: &[u8]) {
        self.send(self.messages(&body[..body.len() / 2])).await;
    }

    /// An ingest of its own, without its commit.
    fn messages(&self, body: &[u8]) -> Vec<WriteContentRequest> {
        let reference = format!("{:032x}", rand::random::<u128>());
        let message = |(index, chunk): (usize, &[u8])| WriteContentRequest {
            action: WriteAction::Write as i32,
            r#ref: if index == 0 { reference.clone() } else { String::new() },
            offset: (index * MESSAGE) as i64,
            data: chunk.to_vec().into(),
            ..Default::default()
        };
        body.chunks(MESSAGE).enumerate().map(message).collect()
    }

    async fn send(&self, messages: Vec<WriteContentRequest>) -> End {
        let mut answers = match self.content.clone().write(tokio_stream::iter(messages)).await {
            Ok(answers) => answers.into_inner(),
            Err(status) => return content_end(&status),
        };
        loop {
            match answers.message().await {
                Ok(Some(answer)) if answer.action == WriteAction::Commit as i32 => return End::Done,
                Ok(Some(_)) => {}
                Ok(None) => return End::Unknown,
                Err(status) if status.code() == Code::AlreadyExists => return End::Done,
                Err(status) => return content_end(&status),
            }
        }
    }

    pub(super) async fn delete(&self, through: Through, digest: &Digest) -> End {
        match through {
            Through::S3 => {
                let delete = self.s3.delete_object().bucket(&self.bucket).key(key(digest));
                delete.send().await.map_or_else(|error| s3_end(&error), |_| End::Done)
            }
            Through::Content => {
                let deleted = self.content.clone().delete(DeleteContentRequest { digest: digest.to_string() }).await;
                deleted.map_or_else(|status| content_end(&status), |_| End::Done)
            }
        }
    }
}

pub(super) fn key(digest: &Digest) -> String {
    format!("blobs/{digest}")
}

fn s3_end<E: ProvideErrorMetadata>(error: &SdkError<E>) -> End {
    match (error.code(), error.raw_response().map(|response| response.status().as_u16())) {
        (Some("NoSuchKey"), _) => End::Missing,
        (Some(_), Some(400..500)) => End::Refused,
        _ => End::Unknown,
    }
}

pub(super) fn content_end(status: &Status) -> End {
    match status.code() {
        Code::NotFound => End::Missing,
        Code::FailedPrecondition | Code::InvalidArgument => End::Refused,
        _ => End::Unknown,
    }
}
