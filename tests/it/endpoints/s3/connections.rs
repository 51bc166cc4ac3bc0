//! How long connections are kept open that nobody uses.

use super::*;

/// Far less than a connection may be idle.
const AT_ONCE: Duration = Duration::from_secs(2);

#[tokio::test]
async fn the_connections_of_a_build_are_closed_when_it_is_over() {
    let endpoint = Endpoint::start().await;
    let key = endpoint.plant("", &Bytes::from_static(b"layer"));
    let operator = endpoint.client("OPERATOR");
    operator.get_object().bucket(BUCKET).key(&key).send().await.unwrap().body.collect().await.unwrap();
    let kept = endpoint.shutdown.tasks();
    let builds = ["one", "two"].map(|build| endpoint.build_client(build, Purpose::Export));
    for (client, _) in &builds {
        client.head_object().bucket(BUCKET).key(&key).send().await.unwrap();
    }
    assert_eq!(endpoint.shutdown.tasks(), kept + 2);
    let [(one, first), (_two, second)] = builds;
    // The first connection outlives its build while the other build runs: they may share a layer.
    drop(first);
    one.head_object().bucket(BUCKET).key(&key).send().await.unwrap();
    assert_eq!(endpoint.shutdown.tasks(), kept + 2);
    drop(second);
    let closed = async {
        while endpoint.shutdown.tasks() > kept {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(AT_ONCE, closed).await.expect("they stay open");
    tokio::time::timeout(Duration::from_secs(10), endpoint.returns_to_rest()).await.expect("the operator's stays open");
}

#[tokio::test]
async fn a_read_in_flight_outlasts_the_end_of_its_build() {
    let endpoint = Endpoint::start().await;
    let blob = Bytes::from(vec![7; 32 << 20]);
    endpoint.plant("", &blob);
    endpoint.store.plant("manifests/app", manifest(&[&blob]), OffsetDateTime::now_utc());
    let (client, build) = endpoint.build_client("build", Purpose::Import);
    client.get_object().bucket(BUCKET).key("manifests/app").send().await.unwrap();
    let reading = client.get_object().bucket(BUCKET).key(blob_key(&blob)).send().await.unwrap();
    drop(build);
    assert!(reading.body.collect().await.unwrap().into_bytes() == blob);
    tokio::time::timeout(AT_ONCE, endpoint.returns_to_rest()).await.expect("it stays open");
}

#[tokio::test]
async fn a_connection_that_sends_no_request_is_closed_within_seconds() {
    let endpoint = Endpoint::start().await;
    let silent = TcpStream::connect(&endpoint.address).await.unwrap();
    let mut halting = TcpStream::connect(&endpoint.address).await.unwrap();
    halting.write_all(b"GET / HTTP/1.1\r\nhost:").await.unwrap();
    tokio::time::timeout(Duration::from_secs(10), endpoint.returns_to_rest()).await.expect("they stay open");
    drop((silent, halting));
}
