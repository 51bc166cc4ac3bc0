//! containerd's conformance suite, by its own Go code.

use std::path::Path;
use std::process::Command;

use super::endpoint::Endpoint;
use crate::support::tools::tool;

/// The tests of `testsuite.ContentSuite`, containerd v2.4.2.
const TESTS: [&str; 12] = [
    "Writer",
    "UpdateStatus",
    "CommitExists",
    "Resume",
    "ResumeTruncate",
    "ResumeDiscard",
    "ResumeCopy",
    "ResumeCopySeeker",
    "ResumeCopyReaderAt",
    "SmallBlob",
    "Labels",
    "CommitErrorState",
];

async fn passes(endpoint: &Endpoint, bucket: &str) {
    let mut command = Command::new(tool("go"));
    command
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/conformance"))
        .args(["test", "-count=1", "-v", "-timeout", "300s", "./..."])
        .env("REMORA_CONTENT_ADDR", &endpoint.address)
        .env("REMORA_BUCKET", bucket);
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    for test in TESTS {
        assert!(text.contains(&format!("--- PASS: TestContent/{test} (")), "{test} did not run:\n{text}");
    }
    assert_eq!(text.matches("--- PASS: TestContent/").count(), TESTS.len(), "{text}");
    assert_eq!(text.matches("--- SKIP").count(), 0, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn containerds_suite_passes_on_a_directory() {
    let endpoint = Endpoint::on_directory().await;
    passes(&endpoint, "conformance").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn containerds_suite_passes_on_minio() {
    let (endpoint, bucket) = Endpoint::on_minio("").await;
    passes(&endpoint, &bucket).await;
}
