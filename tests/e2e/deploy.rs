//! The container files. No image can be pulled here, so the stage that compiles is replaced by a folder.

use std::path::Path;

use crate::support::buildkitd::Buildkitd;
use crate::support::client::{Build, Client};
use crate::support::image;

#[test]
fn the_container_file_builds_an_image_that_runs_without_root() {
    let buildkitd = Buildkitd::start();
    let dir = tempfile::tempdir().expect("temp dir");
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("deploy");
    let compiled = dir.path().join("compiled");
    let tar = dir.path().join("image.tar");
    std::fs::create_dir_all(compiled.join("rootfs/usr/bin")).expect("folder");
    std::fs::copy(env!("CARGO_BIN_EXE_remora"), compiled.join("rootfs/usr/bin/remora")).expect("remora");
    let compiled = [format!("--local=build={}", compiled.display()), "--opt=context:build=local:build".to_owned()];
    let build = Build { args: compiled.to_vec(), ..Build::of(&deploy).image(&tar) };
    Client::buildctl(&buildkitd.address()).build(&build).expect_success();
    let config = image::config(&tar)["config"].take();
    assert_eq!(config["User"], "65532:0");
    assert_eq!(config["Entrypoint"], serde_json::json!(["/usr/bin/remora"]));
}
