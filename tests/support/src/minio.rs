//! A real MinIO, and a look into its buckets that goes past everything under test.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use rustix::process::Signal;

use super::ports::free_port;
use super::process::{READY_LIMIT, Running, eventually, files_below, leashed};
use super::tools::tool;

/// The region that MinIO answers to.
pub const REGION: &str = "us-east-1";
/// The key of MinIO's credentials, which are easily searched for.
pub const ACCESS_KEY_ID: &str = "CANARYMINIOKEY";
/// The secret of [`ACCESS_KEY_ID`].
pub const SECRET_ACCESS_KEY: &str = "canary-secret-of-the-store";

/// Deletes the folders `$@` when its standard input ends, which is when the process that holds the other end does.
const KEEPER: &str = r#"trap '' INT TERM; read -r end; for try in 1 2 3 4 5; do rm -rf "$@" && exit; sleep 0.2; done"#;

/// A running MinIO. Dropping it ends it, and deletes its data where that is in a folder of its own.
#[derive(Debug)]
pub struct Minio {
    data: PathBuf,
    address: SocketAddr,
    endpoint: String,
    daemon: Running,
    buckets: AtomicU32,
    _own: Option<tempfile::TempDir>,
}

impl Minio {
    /// Starts one with these buckets.
    pub fn start(buckets: &[&str]) -> Self {
        let own = tempfile::tempdir().expect("temp dir");
        let minio = Self::start_in(own.path(), buckets);
        Self { _own: Some(own), ..minio }
    }

    /// Starts one whose data is in `dir`, and stays there.
    pub fn start_in(dir: &Path, buckets: &[&str]) -> Self {
        let data = dir.to_path_buf();
        for bucket in buckets {
            make_bucket(&data, bucket);
        }
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()));
        let mut command = leashed(tool("minio"));
        command.args(["server", "--quiet", "--address", &address.to_string(), "--console-address", "127.0.0.1:0"]).arg(dir);
        command.env("MINIO_ROOT_USER", ACCESS_KEY_ID).env("MINIO_ROOT_PASSWORD", SECRET_ACCESS_KEY).env("HOME", dir);
        let daemon = Running::start(command);
        let endpoint = format!("http://{address}");
        let mut minio = Self { data, address, endpoint, daemon, buckets: AtomicU32::new(0), _own: None };
        let client = minio.client();
        eventually("MinIO answers", READY_LIMIT, || {
            minio.daemon.assert_running();
            let listed = block_on(client.list_buckets().send());
            listed.is_ok().then_some(())
        });
        minio
    }

    /// The one MinIO of this process: started once, and gone with the process.
    pub fn shared() -> &'static Self {
        static SHARED: OnceLock<Minio> = OnceLock::new();
        SHARED.get_or_init(|| {
            let (sender, receiver) = std::sync::mpsc::channel();
            // MinIO dies with the thread that starts it, and the thread of a test ends with the test.
            std::thread::spawn(move || {
                let minio = Self::start(&[]);
                // A static is never dropped: somebody else deletes the folders when this process is gone.
                let mut keeper = Command::new("sh");
                keeper.args(["-c", KEEPER, "sh"]).arg(&minio.data).arg(minio.daemon.output_dir()).stdin(Stdio::piped());
                let mut keeper = keeper.spawn().expect("a shell");
                let held = keeper.stdin.take();
                let _ = sender.send(minio);
                // This returns when this process ends, as `held` ends with it.
                let _ = keeper.wait();
                drop(held);
            });
            receiver.recv().expect("MinIO starts")
        })
    }

    /// Makes an empty bucket, and returns its name.
    pub fn new_bucket(&self) -> String {
        let name = format!("bucket-{}", self.buckets.fetch_add(1, Ordering::Relaxed));
        make_bucket(&self.data, &name);
        name
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.daemon.pid()
    }

    /// Makes it take connections and answer nothing.
    pub fn freeze(&self) {
        self.daemon.signal(Signal::STOP);
    }

    /// Ends [`Self::freeze`].
    pub fn thaw(&self) {
        self.daemon.signal(Signal::CONT);
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its URL.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Makes a bucket: a folder in the data folder is one.
    pub fn make_bucket(&self, bucket: &str) -> io::Result<()> {
        std::fs::create_dir(self.folder(bucket))
    }

    /// Deletes a bucket with all that is in it.
    pub fn remove_bucket(&self, bucket: &str) -> io::Result<()> {
        std::fs::remove_dir_all(self.folder(bucket))
    }

    /// The folder of a bucket, which may not be there.
    pub fn folder(&self, bucket: &str) -> PathBuf {
        self.data.join(bucket)
    }

    /// The attributes with which native BuildKit, with no remora, keeps a cache here.
    pub fn native(&self, attrs: &str) -> String {
        native(&self.endpoint, attrs)
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
        files_below(&self.data.join(".minio.sys/multipart"))
    }

    /// The manifests in a bucket.
    pub fn manifests(&self, bucket: &str) -> BTreeSet<String> {
        manifests(&self.data, bucket)
    }

    /// A client that goes past everything under test.
    pub fn client(&self) -> aws_sdk_s3::Client {
        client(&self.endpoint, ACCESS_KEY_ID, SECRET_ACCESS_KEY)
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
