//! The s3 endpoint.
