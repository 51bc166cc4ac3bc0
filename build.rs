//! Compiles `proto/` with protox, so that no `protoc` is needed.

use std::path::PathBuf;

use prost::Message as _;

/// The files that code is generated for. Paths are those of upstream, below `proto/`.
const FILES: [&str; 4] = [
    "github.com/containerd/containerd/api/services/content/v1/content.proto",
    "github.com/moby/buildkit/api/services/control/control.proto",
    "github.com/moby/buildkit/solver/pb/ops.proto",
    "remora/cache/v1/cache.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out = PathBuf::from(std::env::var_os("OUT_DIR").ok_or("cargo sets OUT_DIR")?);
    let descriptors = protox::compile(FILES, ["proto"])?;
    // For gRPC reflection.
    std::fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().bytes(".").build_transport(false).compile_fds(descriptors)?;
    Ok(())
}
