//! A real S3 server: MinIO, on a free port and a folder of its own.

use std::io;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use aws_sdk_s3::Client;
use aws_sdk_s3::config::{BehaviorVersion, Credentials, Region};
use remora::types::BucketName;
use rustix::process::{Pid, Signal, kill_process};
use tokio::sync::OnceCell;

use super::ports::free_port;
use super::tools::tool;

const ACCESS_KEY: &str = "remora-test";
const SECRET_KEY: &str = "remora-test-secret";
/// Starting it takes about a second; much more on a busy machine.
const READY_WITHIN: Duration = Duration::from_secs(60);
/// Cleans up whatever happens: `$1` is MinIO's folder, `$2` its address, `$3` the program. The kernel
/// sends TERM when the test process dies.
const KEEPER: &str = r#"
trap 'kill -9 "$minio"; wait "$minio"; rm -rf "$1"; exit' TERM
MINIO_ROOT_USER=$4 MINIO_ROOT_PASSWORD=$5 setpriv --pdeathsig KILL "$3" server --quiet --address "$2" "$1" &
minio=$!
wait "$minio"
rm -rf "$1"
"#;

/// A running MinIO; dropping it stops it and removes its data.
#[derive(Debug)]
pub struct Minio {
    endpoint: String,
    keeper: Mutex<Child>,
    buckets: AtomicU32,
}

impl Minio {
    /// The one of this test process: started once, gone with the process.
    pub async fn shared() -> &'static Self {
        static SHARED: OnceCell<Minio> = OnceCell::const_new();
        SHARED.get_or_init(Self::start).await
    }

    /// Starts one that nobody else uses.
    pub async fn start() -> Self {
        let minio = tool("minio");
        let folder = tempfile::Builder::new().prefix("remora-minio-").tempdir().unwrap().keep();
        let address = format!("127.0.0.1:{}", free_port());
        let mut command = Command::new(tool("setpriv"));
        command.args(["--pdeathsig", "TERM", "sh", "-c", KEEPER, "sh"]).arg(&folder).arg(&address).arg(minio);
        command.args([ACCESS_KEY, SECRET_KEY]).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let started =
            Self { endpoint: format!("http://{address}"), keeper: Mutex::new(spawn(command).unwrap()), buckets: AtomicU32::new(0) };
        tokio::time::timeout(READY_WITHIN, started.ready()).await.expect("MinIO did not become ready");
        started
    }

    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    pub fn access_key(&self) -> &'static str {
        ACCESS_KEY
    }

    pub fn secret_key(&self) -> &'static str {
        SECRET_KEY
    }

    /// Makes an empty bucket.
    pub async fn new_bucket(&self) -> BucketName {
        let name = format!("bucket-{}", self.buckets.fetch_add(1, Ordering::Relaxed));
        self.client().create_bucket().bucket(&name).send().await.unwrap();
        name.parse().unwrap()
    }

    /// A plain SDK client with all rights.
    pub fn client(&self) -> Client {
        client(&self.endpoint, ACCESS_KEY, SECRET_KEY)
    }

    async fn ready(&self) {
        while self.client().list_buckets().send().await.is_err() {
            let exited = self.keeper.lock().unwrap().try_wait().unwrap();
            assert_eq!(exited, None, "MinIO ended");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

impl Drop for Minio {
    fn drop(&mut self) {
        let keeper = self.keeper.get_mut().unwrap();
        let _ = kill_process(Pid::from_child(keeper), Signal::TERM);
        let _ = keeper.wait();
    }
}

/// An SDK client for an S3 server of the tests.
pub fn client(endpoint: &str, access_key: &str, secret_key: &str) -> Client {
    let http = aws_smithy_http_client::Builder::new().build_http();
    let config = aws_sdk_s3::Config::builder()
        .behavior_version(BehaviorVersion::latest())
        .http_client(http)
        .region(Region::from_static("us-east-1"))
        .endpoint_url(endpoint)
        .force_path_style(true)
        .credentials_provider(Credentials::new(access_key, secret_key, None, None, "test"));
    Client::from_conf(config.build())
}

/// Starts a process from a thread that lives as long as this process: the kernel's death signal follows
/// the thread, and a test's thread ends with its test.
fn spawn(mut command: Command) -> io::Result<Child> {
    let (sender, receiver) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let _ = sender.send(command.spawn());
        loop {
            std::thread::park();
        }
    });
    receiver.recv().map_err(io::Error::other)?
}
