//! What builds export through their sessions, and what becomes of it.

use remora::types::{Digest, Grant};

use super::*;

const LAYER: &[u8] = b"layer";

/// The two documents that BuildKit's exporter leaves in its store for a cache of one layer.
fn documents() -> [Bytes; 2] {
    let layer = Digest::of(LAYER).to_string();
    let records = serde_json::json!([{"digest": layer, "layers": [{"layer": 0, "createdAt": "2026-01-01T00:00:00Z"}]}]);
    let config = serde_json::json!({"layers": [{"blob": layer, "parent": -1}], "records": records}).to_string();
    let described = serde_json::json!({
        "mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": layer, "size": LAYER.len(),
        "annotations": {"containerd.io/uncompressed": layer},
    });
    let of_config = serde_json::json!({
        "mediaType": "application/vnd.buildkit.cacheconfig.v0", "digest": Digest::of(config.as_bytes()).to_string(), "size": config.len(),
    });
    let manifest = serde_json::json!({"schemaVersion": 2, "config": of_config, "layers": [described]}).to_string();
    [config.into(), manifest.into()]
}

/// What builds get when their store fails.
#[derive(Clone, Copy, PartialEq, Eq)]
enum OnUnavailable {
    Miss,
    Fail,
}

/// Runs a build whose layer is stored and whose documents come through its session. Calls `then` before it ends.
/// Returns what `then` returned, the manifests in the store, and how many were not published.
async fn exported(on_unavailable: OnUnavailable, ignore_error: bool, then: impl FnOnce(&Endpoint, &Grant)) -> (Ended, Vec<String>, u64) {
    let keyring = match on_unavailable {
        OnUnavailable::Miss => Keyring::tolerant(Vec::new(), Duration::ZERO),
        OnUnavailable::Fail => Keyring::new(Vec::new(), Duration::ZERO),
    };
    let endpoint = Endpoint::with(keyring, |config| config.transport = Transport::Session).await;
    let bucket = endpoint.dir.path().join("build-cache");
    std::fs::create_dir_all(bucket.join("blobs")).unwrap();
    std::fs::write(bucket.join("blobs").join(Digest::of(LAYER).to_string()), LAYER).unwrap();
    let mut building = Building::start(&endpoint.buildkitd).await;
    let _session = endpoint.session("the-session").await;
    let mut build = SolveRequest { session: "the-session".to_owned(), ..cached_build("the-ref") };
    build.cache.as_mut().unwrap().exports[0].attrs.insert("ignore-error".to_owned(), ignore_error.to_string());
    let export = async {
        let forwarded: SolveRequest = building.next(SOLVE).await;
        let id = forwarded.cache.unwrap().exports[0].attrs["dest"].replace("remora-", "");
        let grant = endpoint.keyring.lookup(&id).unwrap().grant;
        assert!(documents().into_iter().all(|document| grant.documents().unwrap().insert(document)));
        then(&endpoint, &grant);
        building.end.notify_one();
    };
    let (ended, ()) = tokio::join!(endpoint.call(unary(SOLVE, &build)), export);
    let manifests = std::fs::read_dir(bucket.join("manifests")).into_iter().flatten().map(|entry| entry.unwrap().file_name());
    let mut manifests: Vec<String> = manifests.map(|name| name.into_string().unwrap()).filter(|name| !name.starts_with('.')).collect();
    manifests.sort();
    let metrics = endpoint.metrics.encode();
    let dropped = metrics.lines().find_map(|line| line.strip_prefix("remora_exports_dropped_total ")).unwrap().parse().unwrap();
    (ended, manifests, dropped)
}

#[tokio::test]
async fn an_export_that_came_whole_is_published_under_every_name() {
    let (ended, manifests, dropped) = exported(OnUnavailable::Miss, false, |_, _| ()).await;
    assert_eq!((ended.status().code(), manifests, dropped), (Code::Ok, vec!["app".to_owned(), "main".to_owned()], 0));
}

#[tokio::test]
async fn an_export_that_was_dropped_is_not_published() {
    let drop_it = |_: &Endpoint, grant: &Grant| assert!(grant.losses().unwrap().drop_export("a layer was not stored"));
    let (ended, manifests, dropped) = exported(OnUnavailable::Miss, false, drop_it).await;
    assert_eq!((ended.status().code(), manifests, dropped), (Code::Ok, Vec::new(), 2));
}

#[tokio::test]
async fn a_manifest_that_cannot_be_stored_is_dropped_or_fails_the_build() {
    let fail = |endpoint: &Endpoint, _: &Grant| endpoint.faults.fails_with(Fault::UnavailableWrites);
    for (on_unavailable, ignore_error, code, dropped) in [
        (OnUnavailable::Miss, false, Code::Ok, 2),
        (OnUnavailable::Fail, false, Code::Unknown, 0),
        (OnUnavailable::Fail, true, Code::Ok, 0),
    ] {
        let (ended, manifests, counted) = exported(on_unavailable, ignore_error, fail).await;
        let status = ended.status();
        assert_eq!((status.code(), manifests, counted), (code, Vec::new(), dropped), "{status:?}");
        assert!(code == Code::Ok || status.message().contains("exporting cache app, main through remora"), "{status:?}");
    }
}
