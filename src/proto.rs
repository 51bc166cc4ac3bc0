//! Code generated from `proto/`, for the endpoints alone.
#![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic, clippy::clone_on_ref_ptr, reason = "generated")]

/// containerd's content API.
pub mod content {
    tonic::include_proto!("containerd.services.content.v1");
}

/// remora's own API.
pub mod cache {
    tonic::include_proto!("remora.cache.v1");
}

/// BuildKit's build graph; the nested module is where generated code looks for it.
pub mod pb {
    tonic::include_proto!("pb");
}

/// BuildKit's control API.
pub mod moby {
    #[expect(missing_docs, reason = "generated code looks for this path")]
    pub mod buildkit {
        pub mod v1 {
            tonic::include_proto!("moby.buildkit.v1");
            pub mod types {
                tonic::include_proto!("moby.buildkit.v1.types");
            }
        }
    }
}

/// The descriptors of all of them, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));
