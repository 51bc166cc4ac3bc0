//! What is in an image that was exported as an OCI tar.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

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
    json(&blob(dir.path(), &manifest(dir.path())["config"]))
}

/// The files in an image's root by their paths, with their sha256.
pub fn files(tar: &Path) -> BTreeMap<String, String> {
    let (dir, root) = (unpacked(tar), tempfile::tempdir().expect("temp dir"));
    for layer in manifest(dir.path())["layers"].as_array().expect("layers") {
        unpack(&blob(dir.path(), layer), root.path());
    }
    let hashed = |file: PathBuf| {
        let content = std::fs::read(root.path().join(&file)).expect("file");
        (file.display().to_string(), hex::encode(Sha256::digest(content)))
    };
    files_below(root.path()).into_iter().map(hashed).collect()
}

fn manifest(dir: &Path) -> Value {
    json(&blob(dir, &json(&dir.join("index.json"))["manifests"][0]))
}

fn blob(dir: &Path, descriptor: &Value) -> PathBuf {
    dir.join(descriptor["digest"].as_str().expect("digest").replace("sha256:", "blobs/sha256/"))
}

fn json(file: &Path) -> Value {
    serde_json::from_slice(&std::fs::read(file).expect("file")).expect("JSON")
}

fn unpacked(tar: &Path) -> tempfile::TempDir {
    let dir = tempfile::tempdir().expect("temp dir");
    unpack(tar, dir.path());
    dir
}

fn unpack(tar: &Path, into: &Path) {
    let mut command = leashed(tool("tar"));
    command.arg("-xf").arg(tar).arg("-C").arg(into);
    run(command).expect_success();
}

/// Everything in the tar, as one text to search in.
pub fn text(tar: &Path) -> String {
    String::from_utf8_lossy(&std::fs::read(tar).expect("tar")).into_owned()
}
