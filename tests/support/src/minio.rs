//! A real MinIO, and a look into its buckets that goes past everything under test.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};

use rustix::process::Signal;

use super::ports::free_port;
use super::process::{READY_LIMIT, Running, eventually, files_below, leashed};
use super::tools::tool;

/// The region that MinIO answers to.
pub const REGION: &str = "us-east-1";
/// MinIO's credentials: easily searched for.
pub const ACCESS_KEY_ID: &str = "CANARYMINIOKEY";
/// The secret of [`ACCESS_KEY_ID`].
pub const SECRET_ACCESS_KEY: &str = "canary-secret-of-the-store";

/// A running MinIO with a data folder of its own. Dropping it ends it and deletes its data.
#[derive(Debug)]
pub struct Minio {
    dir: tempfile::TempDir,
    port: u16,
    daemon: Running,
}

impl Minio {
    /// Starts one with these buckets.
    pub fn start(buckets: &[&str]) -> Self {
        let dir = tempfile::tempdir().expect("temp dir");
        for bucket in buckets {
            make_bucket(dir.path(), bucket);
        }
        let port = free_port();
        let mut command = leashed(tool("minio"));
        server(&mut command, dir.path(), &format!("127.0.0.1:{port}"));
        command.env("HOME", dir.path());
        let mut minio = Self { dir, port, daemon: Running::start(command) };
        let client = minio.client();
        eventually("MinIO answers", READY_LIMIT, || {
            minio.daemon.assert_running();
            let listed = block_on(client.list_buckets().send());
            listed.is_ok().then_some(())
        });
        minio
    }

    /// Makes it take connections and answer nothing.
    pub fn freeze(&self) {
        self.daemon.signal(Signal::STOP);
    }

    /// Ends [`Self::freeze`].
    pub fn thaw(&self) {
        self.daemon.signal(Signal::CONT);
    }

    /// Its URL.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// The attributes with which native BuildKit, with no remora, keeps a cache here.
    pub fn native(&self, attrs: &str) -> String {
        native(&self.endpoint(), attrs)
    }

    /// All objects of a bucket.
    pub fn objects(&self, bucket: &str) -> BTreeMap<String, Vec<u8>> {
        objects(&self.client(), bucket)
    }

    /// Deletes an object.
    pub fn delete(&self, bucket: &str, key: &str) {
        block_on(self.client().delete_object().bucket(bucket).key(key).send()).expect("delete");
    }

    /// Multipart uploads that were begun and neither completed nor aborted, by MinIO's own files: its
    /// ListMultipartUploads answers for one key at a time, and never for all.
    pub fn open_uploads(&self) -> Vec<PathBuf> {
        files_below(&self.dir.path().join(".minio.sys/multipart"))
    }

    /// The manifests in a bucket.
    pub fn manifests(&self, bucket: &str) -> BTreeSet<String> {
        manifests(self.dir.path(), bucket)
    }

    /// Past everything under test.
    pub fn client(&self) -> aws_sdk_s3::Client {
        client(&self.endpoint(), ACCESS_KEY_ID, SECRET_ACCESS_KEY)
    }
}

/// The manifests in a bucket, by MinIO's own files: it keeps each object in a folder of its name.
pub fn manifests(data: &Path, bucket: &str) -> BTreeSet<String> {
    let names = std::fs::read_dir(data.join(bucket).join("manifests")).into_iter().flatten().flatten();
    names.map(|entry| entry.file_name().display().to_string()).collect()
}

/// The attributes with which native BuildKit keeps a cache in a MinIO that it finds at `endpoint`.
pub fn native(endpoint: &str, attrs: &str) -> String {
    format!(
        "type=s3,region={REGION},{attrs},endpoint_url={endpoint},use_path_style=true,access_key_id={ACCESS_KEY_ID},secret_access_key={SECRET_ACCESS_KEY}"
    )
}

/// What makes `command` a MinIO server on `dir`.
fn server(command: &mut Command, dir: &Path, address: &str) {
    command.args(["server", "--quiet", "--address", address, "--console-address", "127.0.0.1:0"]).arg(dir);
    command.env("MINIO_ROOT_USER", ACCESS_KEY_ID).env("MINIO_ROOT_PASSWORD", SECRET_ACCESS_KEY);
}

/// A folder in MinIO's data folder is a bucket.
pub fn make_bucket(data: &Path, bucket: &str) -> PathBuf {
    let path = data.join(bucket);
    std::fs::create_dir_all(&path).expect("bucket");
    path
}

/// An S3 client for whatever is at `endpoint`.
pub fn client(endpoint: &str, access_key_id: &str, secret_access_key: &str) -> aws_sdk_s3::Client {
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .region(Region::new(REGION))
        .endpoint_url(endpoint)
        .force_path_style(true)
        .credentials_provider(Credentials::new(access_key_id, secret_access_key, None, None, "test"))
        .http_client(aws_smithy_http_client::Builder::new().build_http())
        .build();
    aws_sdk_s3::Client::from_conf(config)
}

/// All objects of a bucket.
pub fn objects(client: &aws_sdk_s3::Client, bucket: &str) -> BTreeMap<String, Vec<u8>> {
    block_on(async {
        let mut found = BTreeMap::new();
        let mut pages = client.list_objects_v2().bucket(bucket).into_paginator().send();
        while let Some(page) = pages.next().await {
            for object in page.expect("list").contents() {
                let key = object.key().expect("key");
                let answer = client.get_object().bucket(bucket).key(key).send().await.expect("get");
                found.insert(key.to_owned(), answer.body.collect().await.expect("body").to_vec());
            }
        }
        found
    })
}

/// Waits for an S3 call.
pub fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime").block_on(future)
}
