//! What only the S3 store has: credentials, the classes of S3's errors, what it asks of new objects.

mod credentials;
mod errors;
mod requests;

use bytes::Bytes;
use remora::store::{Body, S3, S3Config, Store as _};
use remora::types::Key;

use crate::support::minio::SECRET_ACCESS_KEY;
use crate::support::s3_config::minio_config;

fn key() -> Key {
    Key::new("folder/", "key +%é")
}

fn body() -> Body {
    Body::Bytes(Bytes::from_static(b"body"))
}

#[tokio::test]
async fn the_store_knows_its_url_and_its_region() {
    let config = minio_config();
    let name = config.bucket.clone();
    let store = S3::connect(config.clone()).await.unwrap();
    assert_eq!((store.url(), store.region(), store.prefers_multipart()), (format!("s3://{name}"), Some("us-east-1"), true));
    let debug = format!("{store:?} {config:?}");
    assert!(debug.contains(name.as_str()) && !debug.contains(SECRET_ACCESS_KEY), "{debug}");
    let elsewhere = S3::connect(S3Config { region: Some("eu-west-1".to_owned()), ..config }).await.unwrap();
    assert_eq!(elsewhere.region(), Some("eu-west-1"));
}
