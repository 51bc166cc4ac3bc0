//! The content endpoint: containerd's own suite, and every status code through a gRPC client.

mod blobs;
mod manifests;
mod requests;
mod sidecar;
mod suite;
mod surface;
mod writes;
