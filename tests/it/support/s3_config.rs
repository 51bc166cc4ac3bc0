//! How an S3 store is set up for the servers of the tests.

use remora::store::{Checksums, Credentials, Deadlines, S3Config};
use remora::types::BucketName;

use super::fake_s3::FakeS3;
use super::minio::{ACCESS_KEY_ID, Minio, SECRET_ACCESS_KEY};

/// A bucket on a server of the tests.
pub(crate) fn static_config(bucket: BucketName, endpoint: &str, access_key: &str, secret_key: &str) -> S3Config {
    S3Config {
        bucket,
        endpoint: Some(endpoint.to_owned()),
        region: None,
        path_style: None,
        credentials: Credentials::Static {
            access_key_id: access_key.to_owned(),
            secret_access_key: secret_key.to_owned().into(),
            session_token: None,
        },
        sse: None,
        storage_class: None,
        acl: None,
        expected_bucket_owner: None,
        checksums: Checksums::WhenRequired,
        deadlines: Deadlines::default(),
    }
}

/// A new bucket of the MinIO of this process.
pub(crate) fn minio_config() -> S3Config {
    let minio = Minio::shared();
    static_config(minio.new_bucket().parse().unwrap(), minio.endpoint(), ACCESS_KEY_ID, SECRET_ACCESS_KEY)
}

/// The bucket of a server in this process.
pub(crate) fn fake_config(server: &FakeS3) -> S3Config {
    static_config(server.bucket(), server.endpoint(), server.access_key(), server.secret_key())
}
