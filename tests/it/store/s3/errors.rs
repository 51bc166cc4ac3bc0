//! Which of the store's errors stands for which answer of S3, and for none.

use std::time::Duration;

use remora::store::{Condition, Error, S3, S3Config, Store as _};
use remora::types::ETag;

use super::{body, key};
use crate::support::minio::{ACCESS_KEY_ID, Minio};
use crate::support::s3_config::{minio_config, static_config};

/// A connection may take this long to open.
const CONNECT: Duration = Duration::from_millis(200);

#[tokio::test]
async fn wrong_credentials_are_denied_without_naming_them() {
    let good = minio_config();
    let minio = Minio::shared();
    for (access_key, secret_key, code) in
        [(ACCESS_KEY_ID, "wrong-canary", "SignatureDoesNotMatch"), ("nobody", "wrong-canary", "InvalidAccessKeyId")]
    {
        let store = S3::connect(static_config(good.bucket.clone(), minio.endpoint(), access_key, secret_key)).await.unwrap();
        for outcome in [
            store.put(&key(), body(), Condition::None).await.map(drop),
            store.get(&key(), None, None).await.map(drop),
            store.list("", None, 1).await.map(drop),
            store.check().await,
        ] {
            assert!(matches!(&outcome, Err(Error::Denied(why)) if why.contains(code) && !why.contains("canary")), "{outcome:?}");
        }
        assert!(matches!(store.head(&key()).await, Err(Error::Denied(_))));
    }
}

#[tokio::test]
async fn a_missing_bucket_is_not_found() {
    let config = minio_config();
    let store = S3::connect(S3Config { bucket: "no-such-bucket".parse().unwrap(), ..config }).await.unwrap();
    for outcome in [
        store.head(&key()).await.map(drop),
        store.get(&key(), None, None).await.map(drop),
        store.put(&key(), body(), Condition::None).await.map(drop),
        store.put(&key(), body(), Condition::Matches(ETag::new("x"))).await.map(drop),
        store.list("", None, 1).await.map(drop),
        store.check().await,
    ] {
        assert!(matches!(&outcome, Err(Error::NotFound(_))), "{outcome:?}");
    }
}

#[tokio::test]
async fn a_server_that_does_not_listen_is_unavailable() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = static_config("bucket".parse().unwrap(), &format!("http://{closed}"), "key", "secret");
    let outcome = S3::connect(config).await.unwrap().head(&key()).await;
    assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
}

/// A server whose queue of connections is full behaves like one behind a firewall that drops packets.
#[tokio::test]
async fn a_connection_that_does_not_open_is_given_up() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(1).unwrap();
    let address = listener.local_addr().unwrap();
    let mut queue = Vec::new();
    while let Ok(waiting) = tokio::time::timeout(CONNECT, tokio::net::TcpStream::connect(address)).await {
        queue.push(waiting.unwrap());
    }
    let mut config = static_config("bucket".parse().unwrap(), &format!("http://{address}"), "key", "secret");
    config.deadlines.connect = CONNECT;
    let store = S3::connect(config).await.unwrap();
    // The system itself gives up after two minutes.
    let outcome = tokio::time::timeout(Duration::from_secs(60), store.head(&key())).await.expect("it waits for a connection");
    assert!(matches!(outcome, Err(Error::Unavailable(_))), "{outcome:?}");
}
