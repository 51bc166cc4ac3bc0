//! The fault proxy does what it says, and nothing else.

use std::time::{Duration, Instant};

use aws_sdk_s3::Client;
use aws_sdk_s3::config::ResponseChecksumValidation;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::error::ProvideErrorMetadata as _;
use aws_sdk_s3::primitives::ByteStream;

use crate::support::faults::{Fault, FaultProxy, Link, Rule};
use crate::support::minio::{ACCESS_KEY_ID, Minio, SECRET_ACCESS_KEY, client};

const SIZE: usize = 300_000;

/// A proxy in front of MinIO, and a client that takes what comes and does not try again.
struct Bench {
    proxy: FaultProxy,
    client: Client,
    direct: Client,
    bucket: String,
    body: Vec<u8>,
}

impl Bench {
    async fn start() -> Self {
        let minio = Minio::shared();
        let bucket = minio.new_bucket();
        let proxy = FaultProxy::start(minio.endpoint(), 7);
        let [through, direct] = [&proxy.url(), minio.endpoint()].map(|url| client(url, ACCESS_KEY_ID, SECRET_ACCESS_KEY));
        let plain = through.config().to_builder().retry_config(RetryConfig::disabled());
        let plain = plain.response_checksum_validation(ResponseChecksumValidation::WhenRequired).build();
        let bench = Self { proxy, client: Client::from_conf(plain), direct, bucket, body: (0..SIZE).map(|at| (at % 251) as u8).collect() };
        bench.put("blob").await.unwrap();
        bench
    }

    /// The error's code, or `broken` where there was no answer.
    async fn put(&self, key: &str) -> Result<String, String> {
        let put = self.client.put_object().bucket(&self.bucket).key(key).body(ByteStream::from(self.body.clone()));
        let answer = put.send().await.map_err(|error| error.code().unwrap_or("broken").to_owned())?;
        Ok(answer.e_tag().unwrap().to_owned())
    }

    /// The object's ETag, read past the proxy.
    async fn etag_in_store(&self, key: &str) -> String {
        let head = self.direct.head_object().bucket(&self.bucket).key(key).send().await.unwrap();
        head.e_tag().unwrap().to_owned()
    }

    async fn get(&self) -> Result<(String, Vec<u8>), String> {
        let answer = self.client.get_object().bucket(&self.bucket).key("blob").send().await;
        let answer = answer.map_err(|error| error.code().unwrap_or("broken").to_owned())?;
        let etag = answer.e_tag().unwrap().to_owned();
        let body = answer.body.collect().await.map_err(|_| "broken body".to_owned())?;
        Ok((etag, body.to_vec()))
    }
}

#[tokio::test]
async fn nothing_is_changed_without_rules() {
    let bench = Bench::start().await;
    let (etag, body) = bench.get().await.unwrap();
    assert!(body == bench.body);
    assert_eq!(bench.put("another").await.unwrap(), etag);
    let listed = bench.client.list_objects_v2().bucket(&bench.bucket).send().await.unwrap();
    assert_eq!(listed.contents().len(), 2);
    assert_eq!(bench.proxy.counts(), [("GET", 1), ("LIST", 1), ("PUT", 2)].into());
}

#[tokio::test]
async fn each_fault_is_what_its_name_says() {
    let bench = Bench::start().await;
    let (etag, _) = bench.get().await.unwrap();
    let only = |fault| bench.proxy.set_rules(vec![Rule::on("GET", "/blob", 1.0, fault)]);
    only(Fault::SlowDown);
    assert_eq!(bench.get().await.unwrap_err(), "SlowDown");
    only(Fault::Gone);
    assert_eq!(bench.get().await.unwrap_err(), "NoSuchKey");
    for fault in [Fault::Reset, Fault::Truncate] {
        only(fault);
        for _ in 0..5 {
            assert!(bench.get().await.unwrap_err().starts_with("broken"), "{fault:?}");
        }
    }
    only(Fault::Flip);
    let flipped = bench.get().await.unwrap().1;
    assert_eq!(flipped.iter().zip(&bench.body).filter(|(left, right)| left != right).count(), 1);
    only(Fault::WrongETag);
    let (wrong, body) = bench.get().await.unwrap();
    assert!(wrong != etag && body == bench.body);
    only(Fault::Stall(Duration::from_millis(300)));
    let started = Instant::now();
    assert!(bench.get().await.unwrap().1 == bench.body);
    assert!(started.elapsed() >= Duration::from_millis(300));
    assert_eq!(bench.proxy.harmed(), 15);
    // Uploads are slowed down, too.
    bench.proxy.set_rules(vec![Rule::on("PUT", "", 1.0, Fault::Reset)]);
    assert_eq!(bench.put("another").await.unwrap_err(), "broken");
    bench.proxy.set_rules(vec![Rule::on("PUT", "", 1.0, Fault::SlowDown)]);
    assert_eq!(bench.put("another").await.unwrap_err(), "SlowDown");
    let head = bench.client.head_object().bucket(&bench.bucket).key("another").send().await;
    assert!(head.unwrap_err().as_service_error().unwrap().is_not_found(), "the store has seen no whole upload");
}

#[tokio::test]
async fn a_rate_harms_about_that_share_of_requests_and_a_seed_always_the_same_ones() {
    let harmed = async || {
        let bench = Bench::start().await;
        bench.proxy.set_rules(Rule::mix(0.3, &[Fault::SlowDown, Fault::Reset]));
        let mut ends = Vec::new();
        for _ in 0..100 {
            ends.push(bench.get().await.is_ok());
        }
        assert_eq!(ends.iter().filter(|ok| !**ok).count() as u64, bench.proxy.harmed());
        ends
    };
    let (first, second) = (harmed().await, harmed().await);
    assert_eq!(first, second);
    let failures = first.iter().filter(|ok| !**ok).count();
    assert!((15..=45).contains(&failures), "{failures} of 100");
}

#[tokio::test]
async fn a_line_that_refuses_connections_takes_them_again_when_it_is_up() {
    let bench = Bench::start().await;
    bench.proxy.set_link(Link::Refused);
    assert_eq!(bench.get().await.unwrap_err(), "broken");
    bench.proxy.set_link(Link::Up);
    let deadline = Instant::now() + Duration::from_secs(30);
    while bench.get().await.is_err() {
        assert!(Instant::now() < deadline, "nobody listens");
    }
}

#[tokio::test]
async fn nothing_passes_a_dark_line_until_it_is_up_again() {
    let bench = Bench::start().await;
    bench.proxy.set_rules(vec![Rule::on("GET", "/blob", 1.0, Fault::Dark)]);
    let mut waiting = Box::pin(bench.get());
    let still = tokio::time::timeout(Duration::from_millis(500), &mut waiting).await;
    assert!(still.is_err(), "{still:?}");
    assert_eq!(bench.proxy.link(), Link::Dark);
    bench.proxy.set_rules(Vec::new());
    bench.proxy.set_link(Link::Up);
    assert!(waiting.await.unwrap().1 == bench.body);
}

#[tokio::test]
async fn a_dark_answer_comes_late_to_a_request_that_the_store_has() {
    let bench = Bench::start().await;
    let (etag, _) = bench.get().await.unwrap();
    bench.proxy.set_rules(vec![Rule::on("PUT", "/another", 1.0, Fault::DarkAnswer)]);
    let mut waiting = Box::pin(bench.put("another"));
    let still = tokio::time::timeout(Duration::from_millis(500), &mut waiting).await;
    assert!(still.is_err(), "{still:?}");
    assert_eq!(bench.proxy.harmed(), 1);
    assert_eq!(bench.etag_in_store("another").await, etag);
    bench.proxy.set_link(Link::Up);
    assert_eq!(waiting.await.unwrap(), etag);
}
