//! Turns the store, the buckets and the keys of the file into what the stores and the keyring take.

use std::collections::BTreeSet;
use std::path::PathBuf;

use super::endpoint_url::check_url;
use super::error::Error;
use super::file::{Bucket, Checksums, File, OperatorKey, Right, Sse};
use super::secret::Secrets;
use super::store_url::StoreUrl;
use super::units::Text;
use crate::auth;
use crate::store;
use crate::types::{self, BucketName, Grant, Rights, Scope};

/// Where the cache is kept.
#[derive(Debug, Clone)]
pub enum StoreConfig {
    /// Each folder of a directory is a bucket.
    Directory {
        /// The directory.
        root: PathBuf,
        /// The bucket of callers that name none.
        default: BucketName,
    },
    /// Buckets in S3.
    Buckets {
        /// Each of them.
        served: Vec<BucketConfig>,
        /// The bucket of callers that name none.
        default: BucketName,
    },
}

/// One bucket in S3.
#[derive(Debug, Clone)]
pub struct BucketConfig {
    /// How it is reached.
    pub s3: store::S3Config,
    /// What every `prefix=` in it must begin with.
    pub prefix: String,
    /// How long calls may take, and how many may be in flight at once.
    pub policy: store::Policy,
}

impl StoreConfig {
    /// The bucket of callers that name none.
    #[must_use]
    pub fn default_bucket(&self) -> &BucketName {
        match self {
            Self::Directory { default, .. } | Self::Buckets { default, .. } => default,
        }
    }

    /// What every `prefix=` in `bucket` must begin with.
    #[must_use]
    pub fn prefix(&self, bucket: &BucketName) -> &str {
        match self {
            Self::Directory { .. } => "",
            Self::Buckets { served, .. } => {
                served.iter().find(|served| served.s3.bucket == *bucket).map_or("", |served| served.prefix.as_str())
            }
        }
    }
}

/// Fills in `file.store` and `file.default_bucket`, and turns them into the configuration of the store.
pub(super) fn store(file: &mut File, secrets: &mut Secrets) -> Result<StoreConfig, Error> {
    let url = match (&file.store, file.buckets.first()) {
        (Some(Text(url)), _) => url.clone(),
        (None, Some(first)) => StoreUrl::Bucket { name: first.name.0.clone(), prefix: first.prefix.clone().unwrap_or_default() },
        (None, None) => StoreUrl::Directory(file.data_dir.join("store")),
    };
    file.store = Some(Text(url.clone()));
    match url {
        StoreUrl::Directory(_) if !file.buckets.is_empty() => {
            Err(Error::new("buckets: these are of S3, and store is a directory; want store = \"s3://bucket\", or no [[buckets]]"))
        }
        StoreUrl::Directory(root) => {
            let default = match &file.default_bucket {
                Some(Text(name)) => name.clone(),
                None => File::DEFAULT_BUCKET.parse().map_err(|invalid: types::Invalid| Error::new(format!("default_bucket: {invalid}")))?,
            };
            file.default_bucket = Some(Text(default.clone()));
            Ok(StoreConfig::Directory { root, default })
        }
        StoreUrl::Bucket { .. } if file.default_bucket.is_some() => {
            Err(Error::new("default_bucket: for a directory store alone; with S3 it is the bucket of `store`"))
        }
        StoreUrl::Bucket { name, prefix } => {
            let policy = policy(file);
            let mut served = Vec::new();
            let mut names = BTreeSet::new();
            for (index, bucket) in file.buckets.iter().enumerate() {
                let table = format!("buckets[{index}]");
                if !names.insert(bucket.name.0.clone()) {
                    return Err(Error::new(format!("{table}.name: bucket {} is there twice", bucket.name.0)));
                }
                served.push(bucket_config(&table, bucket, policy, secrets)?);
            }
            match served.iter_mut().find(|served| served.s3.bucket == name) {
                None => served.push(BucketConfig { s3: plain_s3(name.clone(), policy), prefix, policy }),
                Some(_) if prefix.is_empty() => {}
                Some(entry) if entry.prefix.is_empty() || entry.prefix == prefix => entry.prefix = prefix,
                Some(entry) => {
                    return Err(Error::new(format!("store: prefix {prefix:?}, but [[buckets]] says {:?} for {name}", entry.prefix)));
                }
            }
            Ok(StoreConfig::Buckets { served, default: name })
        }
    }
}

/// The configuration of a bucket of which only the name is known.
fn plain_s3(bucket: BucketName, policy: store::Policy) -> store::S3Config {
    store::S3Config {
        bucket,
        endpoint: None,
        region: None,
        path_style: None,
        credentials: store::Credentials::Default,
        sse: None,
        storage_class: None,
        acl: None,
        expected_bucket_owner: None,
        checksums: store::Checksums::WhenRequired,
        deadlines: policy.deadlines,
    }
}

fn policy(file: &File) -> store::Policy {
    let (deadlines, breaker) = (&file.store_deadlines, &file.store_breaker);
    store::Policy {
        deadlines: store::Deadlines {
            connect: deadlines.connect.0.0,
            first_byte: deadlines.first_byte.0.0,
            stall: deadlines.stall.0.0,
            total: deadlines.total.0.0,
        },
        breaker: store::BreakerPolicy { budget: breaker.budget.0.0, probe_interval: breaker.probe_interval.0.0 },
        max_requests: file.limits.max_store_requests.0,
    }
}

fn bucket_config(table: &str, bucket: &Bucket, policy: store::Policy, secrets: &mut Secrets) -> Result<BucketConfig, Error> {
    if let Some(endpoint) = &bucket.endpoint {
        check_url(&format!("{table}.endpoint"), endpoint)?;
    }
    let sse = match (bucket.sse, &bucket.sse_kms_key_id) {
        (Some(Sse::Kms), key) => Some(store::ServerSideEncryption::Kms(key.clone())),
        (_, Some(_)) => return Err(Error::new(format!("{table}.sse_kms_key_id: only with sse = \"aws:kms\""))),
        (Some(Sse::S3Managed), None) => Some(store::ServerSideEncryption::S3Managed),
        (None, None) => None,
    };
    let s3 = store::S3Config {
        endpoint: bucket.endpoint.clone(),
        region: bucket.region.clone(),
        path_style: bucket.path_style,
        credentials: credentials(table, bucket, secrets)?,
        sse,
        storage_class: bucket.storage_class.clone(),
        acl: bucket.acl.clone(),
        expected_bucket_owner: bucket.expected_bucket_owner.clone(),
        checksums: match bucket.checksums {
            Checksums::WhenRequired => store::Checksums::WhenRequired,
            Checksums::WhenSupported => store::Checksums::WhenSupported,
        },
        ..plain_s3(bucket.name.0.clone(), policy)
    };
    let prefix = bucket.prefix.clone().unwrap_or_default();
    Scope::new(bucket.name.0.clone(), &prefix).map_err(|invalid| Error::new(format!("{table}.prefix: {invalid}")))?;
    Ok(BucketConfig { s3, prefix, policy })
}

fn credentials(table: &str, bucket: &Bucket, secrets: &mut Secrets) -> Result<store::Credentials, Error> {
    let refuse = |key: &str, only_with: &str| Err(Error::new(format!("{table}.{key}: only with {only_with}")));
    if bucket.access_key_id.is_none() {
        for (key, set) in [
            ("secret_access_key_file", bucket.secret_access_key_file.is_some()),
            ("secret_access_key_env", bucket.secret_access_key_env.is_some()),
            ("session_token_env", bucket.session_token_env.is_some()),
        ] {
            if set {
                return refuse(key, "access_key_id");
            }
        }
    }
    if bucket.external_id.is_some() && bucket.role_arn.is_none() {
        return refuse("external_id", "role_arn");
    }
    match (&bucket.profile, &bucket.access_key_id, &bucket.role_arn) {
        (None, None, None) => Ok(store::Credentials::Default),
        (Some(profile), None, None) => Ok(store::Credentials::Profile(profile.clone())),
        (None, Some(access_key_id), None) => {
            let secret_access_key =
                secrets.required(table, bucket.secret_access_key_file.as_deref(), bucket.secret_access_key_env.as_deref())?;
            let token = |variable: &String| secrets.read_variable(&format!("{table}.session_token_env"), variable);
            let session_token = bucket.session_token_env.as_ref().map(token).transpose()?;
            Ok(store::Credentials::Static { access_key_id: access_key_id.clone(), secret_access_key, session_token })
        }
        (None, None, Some(role_arn)) => {
            Ok(store::Credentials::AssumeRole { role_arn: role_arn.clone(), external_id: bucket.external_id.clone() })
        }
        _ => Err(Error::new(format!("{table}: want at most one of profile, access_key_id and role_arn"))),
    }
}

/// The operator's keys of the s3 endpoint.
pub(super) fn operator_keys(keys: &[OperatorKey], store: &StoreConfig, secrets: &mut Secrets) -> Result<Vec<auth::OperatorKey>, Error> {
    let mut ids = BTreeSet::new();
    let mut opened = Vec::new();
    for (index, key) in keys.iter().enumerate() {
        let table = format!("s3.keys[{index}]");
        if key.access_key_id.is_empty() || !ids.insert(&key.access_key_id) {
            return Err(Error::new(format!("{table}.access_key_id: {:?} is empty or there twice", key.access_key_id)));
        }
        let bucket = key.bucket.as_ref().map_or_else(|| store.default_bucket().clone(), |Text(name)| name.clone());
        check_served(&table, &bucket, &key.prefix, store)?;
        let scope = Scope::with_prefixes(bucket, &key.prefix, &key.blobs_prefix, &key.manifests_prefix)
            .map_err(|invalid| Error::new(format!("{table}: {invalid}")))?;
        let rights: Vec<types::Right> = key.rights.iter().map(|right| right.to_type()).collect();
        let secret_access_key = secrets.required(&table, key.secret_access_key_file.as_deref(), key.secret_access_key_env.as_deref())?;
        let grant = Grant::builder(scope, Rights::of(&rights)).sub_prefixes().build();
        opened.push(auth::OperatorKey { access_key_id: key.access_key_id.clone(), secret_access_key, grant });
    }
    Ok(opened)
}

fn check_served(table: &str, bucket: &BucketName, prefix: &str, store: &StoreConfig) -> Result<(), Error> {
    let StoreConfig::Buckets { served, .. } = store else { return Ok(()) };
    if !served.iter().any(|served| served.s3.bucket == *bucket) {
        return Err(Error::new(format!("{table}.bucket: {bucket} is neither the bucket of `store` nor one of [[buckets]]")));
    }
    let wanted = store.prefix(bucket);
    if prefix.starts_with(wanted) {
        Ok(())
    } else {
        Err(Error::new(format!("{table}.prefix: {prefix:?} is outside of what is served; want one that begins with {wanted:?}")))
    }
}

impl Right {
    fn to_type(self) -> types::Right {
        match self {
            Self::Exists => types::Right::Exists,
            Self::Read => types::Right::Read,
            Self::Write => types::Right::Write,
            Self::Delete => types::Right::Delete,
        }
    }
}
