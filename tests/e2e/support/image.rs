//! What is in an image that was exported as an OCI tar.

use std::collections::BTreeSet;
use std::path::Path;

use serde_json::Value;
use sha2::{Digest as _, Sha256};

use super::process::{files_below, leashed, run};
use super::tools::tool;

/// An image's content: the digests of its manifest, config and layers, each checked against the bytes.
/// (`index.json` is left out: it carries the time of the export.)
pub fn content(tar: &Path) -> BTreeSet<String> {
    let dir = unpacked(tar);
    let blobs = dir.path().join("blobs/sha256");
    let digests: BTreeSet<String> = files_below(&blobs).iter().map(|file| file.display().to_string()).collect();
    for digest in &digests {
        assert_eq!(&hex::encode(Sha256::digest(std::fs::read(blobs.join(digest)).expect("blob"))), digest);
    }
    assert!(digests.len() >= 3, "an image has a manifest, a config and a layer: {digests:?}");
    digests
}

/// The configuration of an image.
pub fn config(tar: &Path) -> Value {
    let dir = unpacked(tar);
    let json = |path: &str| -> Value { serde_json::from_slice(&std::fs::read(dir.path().join(path)).expect("file")).expect("JSON") };
    let blob = |descriptor: &Value| json(&descriptor["digest"].as_str().expect("digest").replace("sha256:", "blobs/sha256/"));
    blob(&blob(&json("index.json")["manifests"][0])["config"])
}

fn unpacked(tar: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temp dir");
    let mut command = leashed(tool("tar"));
    command.arg("-xf").arg(tar).arg("-C").arg(dir.path());
    run(command).expect_success();
    dir
}

/// Everything in the tar, as one text to search in.
pub fn text(tar: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(tar).expect("tar")).into_owned()
}
