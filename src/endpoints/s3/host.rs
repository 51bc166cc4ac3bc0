//! Where a request names its bucket: at the beginning of its path (path style), or at the beginning of the host name
//! (virtual-hosted style).
//!
//! remora does not know all of its own host names, but it knows the one bucket that the caller's key is for. So a request is
//! virtual-hosted when its host name begins with that bucket and a dot. However, a path that begins with the bucket is
//! always path style: a bucket `remora` behind `http://remora.ci.svc:9190` is likely, a prefix named like its bucket is not.

use http::{Request, header};
use s3s::S3Result;
use s3s::host::{S3Host, VirtualHost};
use s3s::validation::NameValidation;

use crate::auth::Keyring;
use crate::types::BucketName;

/// The bucket of a virtual-hosted request.
pub(super) fn virtual_bucket<B>(request: &Request<B>, keyring: &Keyring) -> Option<BucketName> {
    let grant = keyring.lookup(access_key_id(request)?).ok()?.grant;
    let bucket = grant.scope().bucket();
    let host = request.headers().get(header::HOST)?.to_str().ok()?;
    host.strip_prefix(bucket.as_str())?.strip_prefix('.').filter(|rest| !rest.is_empty())?;
    let first = request.uri().path().trim_start_matches('/').split('/').next();
    (first != Some(bucket.as_str())).then(|| bucket.clone())
}

/// The access key id that the request names. Its signature is checked later.
fn access_key_id<B>(request: &Request<B>) -> Option<&str> {
    let authorization = request.headers().get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let credential = match authorization {
        Some(text) => text.split_once("Credential=")?.1,
        None => request.uri().query()?.split('&').find_map(|pair| pair.strip_prefix("X-Amz-Credential="))?,
    };
    credential.split(['/', '%']).next()
}

/// Tells s3s that the bucket is in the host name.
pub(super) struct VirtualBucket(pub(super) BucketName);

impl S3Host for VirtualBucket {
    fn parse_host_header<'a>(&'a self, host: &'a str) -> S3Result<VirtualHost<'a>> {
        Ok(VirtualHost::new(host).with_bucket(self.0.as_str()))
    }
}

/// Has s3s accept the bucket names that remora accepts.
pub(super) struct BucketNames;

impl NameValidation for BucketNames {
    fn validate_bucket_name(&self, name: &str) -> bool {
        name.parse::<BucketName>().is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::OperatorKey;
    use crate::types::{Grant, Scope};

    fn bucket_of(host: &str, uri: &str, authorization: Option<&str>) -> Option<String> {
        let scope = Scope::new("remora".parse().unwrap(), "").unwrap();
        let key =
            OperatorKey { access_key_id: "KEY".to_owned(), secret_access_key: "secret".to_owned().into(), grant: Grant::operator(scope) };
        let keyring = Keyring::new(vec![key], std::time::Duration::ZERO);
        let mut request = Request::builder().uri(uri).header(header::HOST, host);
        if let Some(value) = authorization {
            request = request.header(header::AUTHORIZATION, value);
        }
        virtual_bucket(&request.body(()).unwrap(), &keyring).map(|bucket| bucket.to_string())
    }

    #[test]
    fn the_bucket_of_the_key_decides() {
        let signed = Some("AWS4-HMAC-SHA256 Credential=KEY/20260101/eu-west-1/s3/aws4_request, SignedHeaders=host, Signature=0");
        let virtual_hosted = Some("remora".to_owned());
        assert_eq!(bucket_of("remora.cache.test:9190", "/manifests/app", signed), virtual_hosted);
        assert_eq!(bucket_of("remora.cache.test", "/?list-type=2", signed), virtual_hosted);
        assert_eq!(bucket_of("remora.x", "/blobs/x?X-Amz-Credential=KEY%2F20260101%2Feu", None), virtual_hosted);
        for (host, path) in [
            ("remora.ci.svc:9190", "/remora/manifests/app"),
            ("remora:9190", "/manifests/app"),
            ("127.0.0.1:9190", "/remora/manifests/app"),
            ("other.cache.test", "/manifests/app"),
            ("remora.", "/manifests/app"),
        ] {
            assert_eq!(bucket_of(host, path, signed), None, "{host}{path}");
        }
        assert_eq!(bucket_of("remora.cache.test", "/manifests/app", Some("AWS4-HMAC-SHA256 Credential=WHO/20260101")), None);
        assert_eq!(bucket_of("remora.cache.test", "/manifests/app", None), None);
    }
}
