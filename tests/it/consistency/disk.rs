//! The disk cache of a process that is killed while it fetches: afterwards every byte is right, and no half file is
//! served.

use std::path::Path;
use std::time::Duration;

use remora::types::Digest;

use super::blobs::plant;
use super::client::{Store, Through, start};
use crate::support::faults::{Fault, FaultProxy, Rule, seed};
use crate::support::minio::Minio;
use crate::support::sidecar::Sidecar;

/// MiB: several ranges.
const SIZE: usize = 30;
const KILLS: usize = 4;
/// Longer than the test.
const FOR_EVER: Duration = Duration::from_secs(600);
const PATIENCE: Duration = Duration::from_secs(60);

fn drafts(sidecar: &Sidecar) -> usize {
    files(&sidecar.dir().join("data/disk-cache/drafts"))
}

fn files(dir: &Path) -> usize {
    std::fs::read_dir(dir).unwrap().count()
}

fn metric(sidecar: &Sidecar, name: &str) -> u64 {
    let (_, _, metrics) = sidecar.admin("GET", "/metrics");
    let line = metrics.lines().find_map(|line| line.strip_prefix(&format!("remora_{name} ")));
    line.unwrap_or_else(|| panic!("no {name}: {metrics}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_kill_in_the_middle_of_a_fetch_every_byte_is_right() {
    let seed = seed();
    let minio = Minio::shared();
    let bucket = minio.new_bucket();
    let blobs = plant(minio, &bucket, &[Some(SIZE)], seed).await;
    let blob = &blobs[0];
    let digest = Digest::of(&blobs[0]);
    let proxy = FaultProxy::start(minio.endpoint(), seed);
    let (mut sidecar, clients) = start(&Store::Minio { url: proxy.url(), bucket: &bucket, disk_cache: true });
    for kill in 0..KILLS {
        // Each answer stops at a random byte, so the kill comes at another point of the file each time.
        proxy.set_rules(vec![Rule::on("GET", "/blobs/", 0.7, Fault::Stall(FOR_EVER))]);
        let through = if kill % 2 == 0 { Through::S3 } else { Through::Content };
        let begun = async {
            while drafts(&sidecar) == 0 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        tokio::select! {
            read = clients.read(through, &digest) => assert!(read.is_ok_and(|bytes| bytes == *blob), "it was over before the kill"),
            () = begun => {}
        }
        sidecar.restart();
        assert_eq!(drafts(&sidecar), 0, "kill {kill}");
        proxy.set_rules(Vec::new());
        let read = tokio::time::timeout(PATIENCE, clients.read(through, &digest)).await.expect("a read hangs");
        assert!(read.is_ok_and(|bytes| bytes == *blob), "kill {kill}");
        if kill + 1 < KILLS {
            // The next round begins without what this one has kept.
            let name = digest.to_string().split_off(7);
            let _ = std::fs::remove_dir_all(sidecar.dir().join("data/disk-cache").join(&name[..2]));
        }
    }
    // What is whole outlives a kill, and the bucket is not asked for it.
    while drafts(&sidecar) > 0 {
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    sidecar.restart();
    proxy.set_rules(vec![Rule::on("GET", "/blobs/", 1.0, Fault::Reset)]);
    let harmed = proxy.harmed();
    for through in [Through::S3, Through::Content] {
        assert!(clients.read(through, &digest).await.is_ok_and(|bytes| bytes == *blob), "{through:?}");
    }
    assert_eq!(
        (proxy.harmed() - harmed, metric(&sidecar, "disk_cache_hits_total"), metric(&sidecar, "disk_cache_faults_total")),
        (0, 2, 0)
    );
}
