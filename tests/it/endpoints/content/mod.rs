//! The content endpoint: containerd's own suite, and every status code through a gRPC client.

mod blobs;
mod endpoint;
mod manifests;
mod requests;
mod suite;
mod surface;
mod writes;
