//! The client of the SDK: its credentials, region and endpoint, and the deadlines that only the SDK can keep. Nothing is
//! sent to S3 here.

use std::time::Duration;

use aws_config::environment::region::EnvironmentVariableRegionProvider;
use aws_config::imds::region::ImdsRegionProvider;
use aws_config::meta::region::RegionProviderChain;
use aws_config::profile::ProfileFileRegionProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::{BehaviorVersion, ConfigLoader, Region, SdkConfig};
use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{
    Credentials as KeyPair, IdentityCache, RequestChecksumCalculation, ResponseChecksumValidation, SharedCredentialsProvider,
    SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_types::service_config::ServiceConfigKey;
use secrecy::ExposeSecret as _;

use super::bucket::S3;
use super::config::{Checksums, Credentials, S3Config};
use super::credentials::RenewedCredentials;
use crate::store::{Error, Result};

/// Idle connections that are kept for the next request. These are enough for two reads with a full window. There are no
/// more, since each keeps its read buffer (up to 400 KiB).
const MAX_IDLE: usize = 32;
const IDLE_TIMEOUT: Duration = Duration::from_secs(20);
/// Attempts of one request for credentials, including the first.
const CREDENTIALS_ATTEMPTS: u32 = 3;
/// How long one of these attempts may take.
const CREDENTIALS_TIMEOUT: Duration = Duration::from_secs(5);
/// The region for stores that are not AWS, where none is configured. Such stores accept it.
const DEFAULT_REGION: &str = "us-east-1";

impl S3 {
    /// Prepares to use a bucket. Whether it can be reached is for [`crate::store::Store::check`] to say.
    ///
    /// # Errors
    /// [`Error::Invalid`] where no region is configured and the AWS environment has none either, or where
    /// TLS has no root certificates.
    pub async fn connect(config: S3Config) -> Result<Self> {
        let http = http_client(config.endpoint.as_deref())?;
        let mut shared = load(&config, &http, None).await;
        let endpoint = config.endpoint.clone().or_else(|| environment_endpoint(&shared));
        let region = match shared.region() {
            Some(region) => region.clone(),
            None => {
                let region = region_elsewhere(&config, &http, endpoint.is_some()).await?;
                shared = load(&config, &http, Some(region.clone())).await;
                region
            }
        };
        let checksums = match config.checksums {
            Checksums::WhenRequired => (RequestChecksumCalculation::WhenRequired, ResponseChecksumValidation::WhenRequired),
            Checksums::WhenSupported => (RequestChecksumCalculation::WhenSupported, ResponseChecksumValidation::WhenSupported),
        };
        let mut client = aws_sdk_s3::config::Builder::from(&shared)
            .retry_config(RetryConfig::disabled())
            // The guard keeps the deadlines of a call. What is not disabled here comes from `shared`.
            .timeout_config(TimeoutConfig::builder().connect_timeout(config.deadlines.connect).disable_operation_attempt_timeout().build())
            // The guard watches what is read: a reader that pauses is no stall.
            .stalled_stream_protection(
                StalledStreamProtectionConfig::enabled().download_enabled(false).grace_period(config.deadlines.stall).build(),
            )
            .force_path_style(config.path_style.unwrap_or(endpoint.is_some()))
            .request_checksum_calculation(checksums.0)
            .response_checksum_validation(checksums.1);
        let credentials = credentials(&config, &shared).await.map(RenewedCredentials::new);
        client
            .set_endpoint_url(endpoint)
            .set_identity_cache(IdentityCache::no_cache())
            .set_credentials_provider(credentials.clone().map(SharedCredentialsProvider::new));
        Ok(Self { client: Client::from_conf(client.build()), region: region.to_string(), config, credentials })
    }
}

/// What the AWS environment and profile say. `region` takes precedence over both.
async fn load(config: &S3Config, http: &SharedHttpClient, region: Option<Region>) -> SdkConfig {
    let profile = match &config.credentials {
        Credentials::Profile(name) => Some(name.as_str()),
        Credentials::Default | Credentials::Static { .. } | Credentials::AssumeRole { .. } => None,
    };
    // The default chain is not used for the region: it also asks the instance's metadata service, which takes seconds where
    // there is none. See `region_elsewhere`.
    let mut profile_region = ProfileFileRegionProvider::builder();
    if let Some(profile) = profile {
        profile_region = profile_region.profile_name(profile);
    }
    let region = RegionProviderChain::first_try(region.or_else(|| config.region.clone().map(Region::new)))
        .or_else(EnvironmentVariableRegionProvider::new())
        .or_else(profile_region.build());
    let mut loader: ConfigLoader = aws_config::defaults(BehaviorVersion::latest())
        .http_client(http.clone())
        .region(region)
        .retry_config(RetryConfig::standard().with_max_attempts(CREDENTIALS_ATTEMPTS))
        .timeout_config(
            TimeoutConfig::builder().connect_timeout(config.deadlines.connect).operation_attempt_timeout(CREDENTIALS_TIMEOUT).build(),
        );
    if let Some(profile) = profile {
        loader = loader.profile_name(profile);
    }
    loader.load().await
}

/// The SDK's HTTP client. It would panic if there were no root certificates for TLS, so they are looked up first.
fn http_client(endpoint: Option<&str>) -> Result<SharedHttpClient> {
    let builder = aws_smithy_http_client::Builder::new().pool_max_idle_per_host(MAX_IDLE).pool_idle_timeout(IDLE_TIMEOUT);
    let roots = rustls_native_certs::load_native_certs();
    if !roots.certs.is_empty() {
        return Ok(builder.tls_provider(Provider::Rustls(CryptoMode::Ring)).build_https());
    }
    if endpoint.is_some_and(|endpoint| endpoint.starts_with("http://")) {
        return Ok(builder.build_http());
    }
    let why = roots.errors.first().map_or_else(|| "none is installed".to_owned(), ToString::to_string);
    Err(Error::Invalid(format!("no root certificates for TLS ({why}): install ca-certificates, or set SSL_CERT_FILE")))
}

/// `AWS_ENDPOINT_URL_S3`, `AWS_ENDPOINT_URL`, or the equivalent keys of the profile.
fn environment_endpoint(shared: &SdkConfig) -> Option<String> {
    let service = ServiceConfigKey::builder().service_id("S3").env("AWS_ENDPOINT_URL").profile("endpoint_url").build().ok()?;
    let for_s3 = shared.service_config().and_then(|service_config| service_config.load_config(service));
    for_s3.or_else(|| shared.endpoint_url().map(str::to_owned))
}

async fn region_elsewhere(config: &S3Config, http: &SharedHttpClient, has_endpoint: bool) -> Result<Region> {
    if has_endpoint {
        return Ok(Region::from_static(DEFAULT_REGION));
    }
    let instance = ProviderConfig::without_region().with_http_client(http.clone());
    ImdsRegionProvider::builder()
        .configure(&instance)
        .build()
        .region()
        .await
        .ok_or_else(|| Error::Invalid(format!("bucket {} has no region: set region in its configuration, or AWS_REGION", config.bucket)))
}

async fn credentials(config: &S3Config, shared: &SdkConfig) -> Option<SharedCredentialsProvider> {
    match &config.credentials {
        // `load` has set up the chain for the profile.
        Credentials::Default | Credentials::Profile(_) => shared.credentials_provider(),
        Credentials::Static { access_key_id, secret_access_key, session_token } => {
            let token = session_token.as_ref().map(|token| token.expose_secret().to_owned());
            Some(SharedCredentialsProvider::new(KeyPair::new(access_key_id, secret_access_key.expose_secret(), token, None, "remora")))
        }
        Credentials::AssumeRole { role_arn, external_id } => {
            let mut role = AssumeRoleProvider::builder(role_arn).session_name("remora").configure(shared);
            if let Some(external_id) = external_id {
                role = role.external_id(external_id);
            }
            Some(SharedCredentialsProvider::new(role.build().await))
        }
    }
}
