//! Who is calling: from a request's access key id to the grant, which the operations find in the request's extensions.

use http::{Method, Request, header};
use s3s::access::{S3Access, S3AccessContext};
use s3s::auth::{S3Auth, SecretKey};
use s3s::{S3Error, S3ErrorCode, S3Result};
use secrecy::ExposeSecret;

use crate::auth::{Credential, Keyring, Refused};

use super::operations::OperationName;
use crate::endpoints::Activity;

/// Gives s3s the secret with which it checks a signature.
pub(super) struct Signatures(pub(super) Keyring);

#[async_trait::async_trait]
impl S3Auth for Signatures {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        Ok(SecretKey::from(lookup(&self.0, access_key)?.secret_access_key.expose_secret()))
    }
}

/// Lets signed requests pass that are for the grant's own bucket, and hands the grant on.
pub(super) struct Access(pub(super) Keyring);

#[async_trait::async_trait]
impl S3Access for Access {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        let operation = context.s3_op().name().to_owned();
        if let Some(name) = context.extensions_mut().get::<OperationName>() {
            name.set(&operation);
        }
        let credentials = context.credentials().ok_or_else(unsigned)?;
        let Credential { grant, over, .. } = lookup(&self.0, &credentials.access_key)?;
        if let Some(connection) = context.extensions_mut().get::<Activity>() {
            connection.belongs_to(over);
        }
        let own = grant.scope().bucket().as_str();
        if let Some(asked) = context.s3_path().get_bucket_name()
            && asked != own
        {
            let message = format!("this access key is for bucket {own}; the request is for bucket {asked}");
            return Err(S3Error::with_message(S3ErrorCode::AccessDenied, message));
        }
        context.extensions_mut().insert(grant);
        Ok(())
    }
}

/// Refuses two kinds of requests that s3s would accept, before a byte of their body is read: browsers' form uploads, which
/// s3s collects in memory before it checks the signature, and Signature Version 2, whose date s3s does not check.
pub(super) fn check_form<B>(request: &Request<B>) -> S3Result<()> {
    let starts_with = |name, start: &str| {
        let value = request.headers().get(name).map(http::HeaderValue::as_bytes);
        value.map(|value| value.get(..start.len()).is_some_and(|head| head.eq_ignore_ascii_case(start.as_bytes())))
    };
    if request.method() == Method::POST && starts_with(header::CONTENT_TYPE, "multipart/") == Some(true) {
        return Err(S3Error::with_message(S3ErrorCode::NotImplemented, "form uploads are not served"));
    }
    if starts_with(header::AUTHORIZATION, "AWS4-HMAC-SHA256") == Some(false) {
        return Err(unsigned());
    }
    Ok(())
}

fn unsigned() -> S3Error {
    S3Error::with_message(S3ErrorCode::AccessDenied, "requests must be signed with AWS Signature Version 4")
}

fn lookup(keyring: &Keyring, access_key_id: &str) -> S3Result<Credential> {
    keyring.lookup(access_key_id).map_err(|refused| {
        let code = match refused {
            Refused::Unknown => S3ErrorCode::InvalidAccessKeyId,
            Refused::Ended => S3ErrorCode::ExpiredToken,
        };
        S3Error::with_message(code, refused.to_string())
    })
}
