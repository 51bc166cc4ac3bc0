//! What all calls share: the token, bounds, health, reflection, metrics, the drain.

use std::pin::pin;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use remora::proto::content as api;
use remora::types::Digest;
use tonic::Code;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, health_check_response::ServingStatus};

use super::endpoint::{Endpoint, MAX_STREAMS, Write, stat, with, write};
use crate::support::tools::tool;

fn info() -> api::InfoRequest {
    api::InfoRequest { digest: Digest::of(b"nowhere").to_string() }
}

fn health(service: &str) -> HealthCheckRequest {
    HealthCheckRequest { service: service.to_owned() }
}

#[tokio::test]
async fn every_call_but_health_needs_the_token() {
    let endpoint = Endpoint::on(Arc::new(tempfile::tempdir().unwrap()), Some("s3cr3t")).await;
    for (given, code) in [
        (None, Code::Unauthenticated),
        (Some("Bearer "), Code::Unauthenticated),
        (Some("Bearer wrong"), Code::Unauthenticated),
        (Some("Bearer s3cr3"), Code::Unauthenticated),
        (Some("s3cr3t"), Code::Unauthenticated),
        (Some("Basic s3cr3t"), Code::Unauthenticated),
        (Some("Bearer s3cr3t"), Code::NotFound),
        (Some("bearer s3cr3t"), Code::NotFound),
    ] {
        let metadata: Vec<_> = given.map(|value| ("authorization", value)).into_iter().collect();
        let refused = endpoint.content().info(with(info(), &metadata)).await.unwrap_err();
        assert_eq!(refused.code(), code, "{given:?}: {refused}");
        assert!(!refused.message().contains("s3cr3t"));
    }
    assert_eq!(endpoint.manifests().list(remora::proto::cache::ListRequest::default()).await.unwrap_err().code(), Code::Unauthenticated);
    assert!(HealthClient::new(endpoint.channel.clone()).check(health("")).await.is_ok());
    let (list, _) = grpcurl(&endpoint, &["list"]).await;
    assert!(!list.success());
    let (list, text) = grpcurl(&endpoint, &["-H", "authorization: Bearer s3cr3t", "list"]).await;
    assert!(list.success(), "{text}");
}

#[tokio::test]
async fn a_message_above_the_bound_is_refused() {
    let endpoint = Endpoint::on_directory().await;
    let mut stream = endpoint.write().await;
    stream.exchange(stat("layer", 0, "")).await.unwrap();
    // The largest that containerd's client sends.
    assert_eq!(stream.exchange(write(0, &vec![7; 8 << 20])).await.unwrap().offset, 8 << 20);
    let refused = stream.exchange(write(8 << 20, &vec![7; 17 << 20])).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted, "{refused}");
    assert_eq!(endpoint.write().await.exchange(stat("layer", 0, "")).await.unwrap().offset, 8 << 20);
}

#[tokio::test]
async fn health_is_told_and_watched_until_the_drain() {
    let endpoint = Endpoint::on_directory().await;
    let mut client = HealthClient::new(endpoint.channel.clone());
    for service in ["", "containerd.services.content.v1.Content", "remora.cache.v1.Manifests"] {
        assert_eq!(client.check(health(service)).await.unwrap().into_inner().status(), ServingStatus::Serving, "{service}");
    }
    assert_eq!(client.check(health("none")).await.unwrap_err().code(), Code::NotFound);
    let mut watch = client.watch(health("")).await.unwrap().into_inner();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::Serving);
    // A stream in flight finishes its work; a build that runs may need another.
    let mut stream = endpoint.write().await;
    stream.exchange(stat("layer", 0, "")).await.unwrap();
    endpoint.shutdown.drain();
    assert_eq!(watch.message().await.unwrap().unwrap().status(), ServingStatus::NotServing);
    assert!(tokio::net::TcpStream::connect(&endpoint.address).await.is_ok());
    endpoint.shutdown.close();
    assert!(watch.message().await.unwrap().is_none());
    stream.exchange(write(0, b"abc")).await.unwrap();
    stream.exchange(super::endpoint::commit("", 3, "")).await.unwrap();
    drop(stream);
    drop(watch);
    assert!(endpoint.shutdown.finish(std::time::Duration::from_secs(60)).await, "the drain had to be cut off");
    assert!(tokio::net::TcpStream::connect(&endpoint.address).await.is_err());
}

async fn grpcurl(endpoint: &Endpoint, args: &[&str]) -> (std::process::ExitStatus, String) {
    let mut command = Command::new(tool("grpcurl"));
    let (options, call) = args.split_at(args.len() - 1);
    command.arg("-plaintext").args(options).arg(&endpoint.address).args(call);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    (output.status, String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned())
}

#[tokio::test]
async fn grpcurl_finds_its_way_by_reflection() {
    let endpoint = Endpoint::on_directory().await;
    let document = br#"{"records":[]}"#.to_vec();
    let put = remora::proto::cache::PutRequest { name: "app".to_owned(), document: document.into(), ..Default::default() };
    endpoint.manifests().put(with(put, &[("remora-bucket", "build-cache")])).await.unwrap();
    let (status, services) = grpcurl(&endpoint, &["list"]).await;
    assert!(status.success(), "{services}");
    for service in ["containerd.services.content.v1.Content", "remora.cache.v1.Manifests", "grpc.health.v1.Health", "grpc.reflection.v1"] {
        assert!(services.contains(service), "{services}");
    }
    assert!(!services.contains("moby"), "not served here: {services}");
    let (status, listed) = grpcurl(&endpoint, &["-H", "remora-bucket: build-cache", "remora.cache.v1.Manifests/List"]).await;
    assert!(status.success(), "{listed}");
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    assert_eq!((&listed["manifests"][0]["name"], &listed["manifests"][0]["size"]), (&"app".into(), &"14".into()));
    let (status, missing) = grpcurl(&endpoint, &["-d", r#"{"name":"none"}"#, "remora.cache.v1.Manifests/Get"]).await;
    assert!(!status.success() && missing.contains("Code: NotFound"), "{missing}");
    let (status, health) = grpcurl(&endpoint, &["grpc.health.v1.Health/Check"]).await;
    assert!(status.success() && health.contains("SERVING"), "{health}");
}

#[tokio::test]
async fn calls_bytes_and_lookups_are_counted() {
    let endpoint = Endpoint::on_directory().await;
    let digest = endpoint.store(b"layer").await.to_string();
    let mut read = endpoint.content().read(api::ReadContentRequest { digest, offset: 0, size: 0 }).await.unwrap().into_inner();
    while read.message().await.unwrap().is_some() {}
    endpoint.content().info(info()).await.unwrap_err();
    endpoint.content().info(api::InfoRequest::default()).await.unwrap_err();
    let mut refused = Write::open(endpoint.content(), &[]).await;
    refused.exchange(stat("", 0, "")).await.unwrap_err();
    let text = endpoint.metrics.encode();
    for line in [
        r#"remora_requests_total{endpoint="content",operation="Write",class="ok"} 1"#,
        r#"remora_requests_total{endpoint="content",operation="Write",class="refused"} 1"#,
        r#"remora_requests_total{endpoint="content",operation="Read",class="ok"} 1"#,
        r#"remora_requests_total{endpoint="content",operation="Info",class="miss"} 1"#,
        r#"remora_requests_total{endpoint="content",operation="Info",class="refused"} 1"#,
        r#"remora_hits_total{endpoint="content",kind="blob"} 1"#,
        r#"remora_misses_total{endpoint="content",kind="blob"} 1"#,
        r#"remora_sent_bytes_total{endpoint="content"} 5"#,
        r#"remora_received_bytes_total{endpoint="content"} 5"#,
    ] {
        assert!(text.contains(line), "no {line} in\n{text}");
    }
}

#[tokio::test]
async fn one_call_too_many_on_a_connection_waits_for_another_to_end() {
    let endpoint = Endpoint::on_directory().await;
    let mut streams = Vec::new();
    for _ in 0..MAX_STREAMS {
        streams.push(endpoint.write().await);
    }
    let mut one_more = pin!(endpoint.write());
    let early = tokio::time::timeout(Duration::from_millis(200), one_more.as_mut()).await;
    assert!(early.is_err(), "it is answered");
    streams.pop().unwrap().close().await;
    one_more.await.close().await;
}
