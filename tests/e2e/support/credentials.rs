//! Credentials that a store takes for seconds, and who hands them out.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use aws_sdk_sts::config::{BehaviorVersion, Credentials, Region};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::minio::{self, ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY, block_on};

/// The shortest that STS makes credentials for, in seconds.
const SESSION: i32 = 900;

/// A container's credential endpoint over a MinIO: each request is answered with new credentials. They are
/// MinIO's own (STS), and their session policy ends when they say that they expire: MinIO refuses them then.
#[derive(Debug)]
pub struct Issuer {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    minio: String,
    life: Duration,
    issued: Mutex<Vec<Credentials>>,
    ended: AtomicBool,
}

impl Issuer {
    pub fn start(minio: &str, life: Duration) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let shared = Arc::new(Shared { minio: minio.to_owned(), life, issued: Mutex::default(), ended: AtomicBool::new(false) });
        let serving = Arc::clone(&shared);
        std::thread::spawn(move || {
            while let Ok((asking, _)) = listener.accept()
                && !serving.ended.load(Ordering::Relaxed)
            {
                answer(asking, &serving);
            }
        });
        Self { address, shared }
    }

    /// What `AWS_CONTAINER_CREDENTIALS_FULL_URI` is to be.
    pub fn url(&self) -> String {
        format!("http://{}/credentials", self.address)
    }

    /// New credentials for a client that cannot ask the endpoint: ID, secret, session token.
    pub fn issue(&self) -> (String, String, String) {
        let (issued, _) = self.shared.issue();
        let token = issued.session_token().expect("a token").to_owned();
        (issued.access_key_id().to_owned(), issued.secret_access_key().to_owned(), token)
    }

    /// How many were handed out.
    pub fn issued(&self) -> usize {
        self.shared.issued.lock().expect("lock").len()
    }

    /// Whether the store refuses the first credentials that were handed out.
    pub fn first_is_refused(&self, bucket: &str) -> bool {
        let first = self.shared.issued.lock().expect("lock")[0].clone();
        let config = minio::client(&self.shared.minio, "", "").config().to_builder().credentials_provider(first).build();
        let listed = block_on(aws_sdk_s3::Client::from_conf(config).list_objects_v2().bucket(bucket).send());
        listed.is_err_and(|error| error.raw_response().is_some_and(|response| response.status().as_u16() == 403))
    }
}

impl Drop for Issuer {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        let _ = TcpStream::connect(self.address);
    }
}

impl Shared {
    /// New credentials and when they expire. MinIO compares whole seconds.
    fn issue(&self) -> (Credentials, String) {
        let expiry = (OffsetDateTime::now_utc() + self.life).replace_nanosecond(0).expect("a second");
        let expiry = expiry.format(&Rfc3339).expect("a date");
        let policy = serde_json::json!({"Version": "2012-10-17", "Statement": [{
            "Effect": "Allow",
            "Action": ["s3:*"],
            "Resource": ["arn:aws:s3:::*"],
            "Condition": {"DateLessThan": {"aws:CurrentTime": expiry}},
        }]});
        let config = aws_sdk_sts::Config::builder()
            .behavior_version(BehaviorVersion::latest())
            .region(Region::new(REGION))
            .endpoint_url(&self.minio)
            .credentials_provider(Credentials::new(ACCESS_KEY_ID, SECRET_ACCESS_KEY, None, None, "test"))
            .http_client(aws_smithy_http_client::Builder::new().build_http())
            .build();
        // MinIO does not care which role it is.
        let role = aws_sdk_sts::Client::from_conf(config).assume_role().role_arn("arn:aws:iam::000000000000:role/test");
        let role = role.role_session_name("test").duration_seconds(SESSION).policy(policy.to_string());
        let answer = block_on(role.send()).expect("MinIO makes credentials");
        let made = answer.credentials().expect("credentials");
        let token = made.session_token().to_owned();
        let issued = Credentials::new(made.access_key_id(), made.secret_access_key(), Some(token), None, "test");
        self.issued.lock().expect("lock").push(issued.clone());
        (issued, expiry)
    }
}

fn answer(mut asking: TcpStream, shared: &Shared) {
    let mut lines = BufReader::new(asking.try_clone().expect("a socket")).lines();
    while lines.next().is_some_and(|line| line.is_ok_and(|line| !line.is_empty())) {}
    let (issued, expiry) = shared.issue();
    let body = serde_json::json!({
        "AccessKeyId": issued.access_key_id(),
        "SecretAccessKey": issued.secret_access_key(),
        "Token": issued.session_token().expect("a token"),
        "Expiration": expiry,
    })
    .to_string();
    // Whoever has given up waiting does not read it.
    let _ = write!(
        asking,
        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    );
}
