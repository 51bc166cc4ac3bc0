//! What the operator says of a bucket in S3.

use secrecy::SecretString;

use crate::store::Deadlines;
use crate::types::BucketName;

/// What the operator says of a bucket.
#[derive(Debug, Clone)]
pub struct S3Config {
    /// The bucket.
    pub bucket: BucketName,
    /// URL of an S3-compatible service; `None`: AWS, or what the AWS environment and profile say.
    pub endpoint: Option<String>,
    /// `None`: what the AWS environment and profile say.
    pub region: Option<String>,
    /// `None`: path style where an endpoint is set.
    pub path_style: Option<bool>,
    /// Where credentials come from.
    pub credentials: Credentials,
    /// Encryption at rest; `None`: the bucket's default.
    pub sse: Option<ServerSideEncryption>,
    /// `x-amz-storage-class` of new objects.
    pub storage_class: Option<String>,
    /// Canned ACL of new objects.
    pub acl: Option<String>,
    /// The account that must own the bucket.
    pub expected_bucket_owner: Option<String>,
    /// When the SDK adds and checks checksums.
    pub checksums: Checksums,
    /// How long a connection may take, and an upload stand still.
    pub deadlines: Deadlines,
}

/// Where credentials come from.
#[derive(Debug, Clone)]
pub enum Credentials {
    /// The AWS default chain: environment, profile, web identity, container, instance metadata.
    Default,
    /// A profile of the AWS configuration files.
    Profile(String),
    /// A fixed key pair.
    Static {
        /// The public half.
        access_key_id: String,
        /// The secret half.
        secret_access_key: SecretString,
        /// Of temporary credentials.
        session_token: Option<SecretString>,
    },
    /// A role, assumed with the default chain's credentials.
    AssumeRole {
        /// Its ARN.
        role_arn: String,
        /// What its trust policy may ask for.
        external_id: Option<String>,
    },
}

/// Encryption at rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerSideEncryption {
    /// `AES256`.
    S3Managed,
    /// `aws:kms`, with a key's id or ARN, or the account's default key.
    Kms(Option<String>),
}

/// When the SDK adds and checks checksums of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Checksums {
    /// Where an operation demands it: works with every S3-compatible store.
    #[default]
    WhenRequired,
    /// Always.
    WhenSupported,
}
