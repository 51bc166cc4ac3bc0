//! What builds and operators get while the store fails: the table of `docs/faults.md`, over relay.

use super::*;
use remora::config::OnUnavailable::{Fail, Miss};

use crate::support::fault_store::{Fault, FaultStore};

const MANIFEST: &str = "manifests/app";
const DROPPED: &str = "remora_exports_dropped_total";

async fn failing(on_unavailable: OnUnavailable) -> (Endpoint, FaultStore) {
    let store = MemoryStore::default();
    let faults = FaultStore::new(store.clone());
    (Endpoint::over(store, Arc::new(faults.clone()), on_unavailable, |_| ()).await, faults)
}

impl Endpoint {
    fn exporter(&self, build: &str) -> (Client, BuildGuard) {
        self.build_client(build, Purpose::Export)
    }

    fn dropped(&self) -> u64 {
        let metrics = self.metrics.encode();
        metrics.lines().find_map(|line| line.strip_prefix(DROPPED)?.trim().parse().ok()).unwrap_or_default()
    }
}

async fn get(client: &Client, key: &str) -> Result<Bytes, String> {
    match client.get_object().bucket(BUCKET).key(key).send().await {
        Ok(object) => Ok(object.body.collect().await.unwrap().into_bytes()),
        refused => Err(refusal(refused)),
    }
}

async fn put(client: &Client, key: &str, content: &Bytes) -> Result<(), String> {
    let put = client.put_object().bucket(BUCKET).key(key).body(ByteStream::from(content.clone())).send().await;
    if put.is_ok() { Ok(()) } else { Err(refusal(put)) }
}

async fn head(client: &Client, key: &str) -> Result<(), String> {
    let head = client.head_object().bucket(BUCKET).key(key).send().await;
    if head.is_ok() { Ok(()) } else { Err(refusal(head)) }
}

/// Uploads a blob in two parts, and completes the upload.
async fn put_in_parts(client: &Client, chunks: &[Bytes]) -> Result<(), String> {
    let key = blob_key(&chunks.concat());
    let upload = client.create_multipart_upload().bucket(BUCKET).key(&key).send().await;
    let Ok(upload) = upload else { return Err(refusal(upload)) };
    let id = upload.upload_id().unwrap();
    let parts = send_parts(client, &key, id, chunks, &[0, 1]).await;
    let completed = complete(client, &key, id, parts).await;
    if completed.is_ok() { Ok(()) } else { Err(refusal(completed)) }
}

async fn touch(client: &Client, key: &str) -> Result<(), String> {
    let copied = client.copy_object().bucket(BUCKET).key(key).copy_source(format!("{BUCKET}/{key}"));
    let copied = copied.metadata_directive(MetadataDirective::Replace).send().await;
    if copied.is_err() { Err(refusal(copied)) } else { Ok(()) }
}

#[tokio::test]
async fn an_import_finds_nothing_or_fails() {
    for (on_unavailable, wanted) in [(Miss, "NoSuchKey"), (Fail, "ServiceUnavailable: unavailable: broken")] {
        let (endpoint, faults) = failing(on_unavailable).await;
        endpoint.store.plant(MANIFEST, manifest(&[]), OffsetDateTime::now_utc());
        let (build, _guard) = endpoint.build_client("build", Purpose::Import);
        faults.fails_with(Fault::Unavailable);
        let refused = get(&build, MANIFEST).await.unwrap_err();
        assert!(refused.starts_with(wanted), "{refused}");
        let operator = get(&endpoint.client("OPERATOR"), MANIFEST).await.unwrap_err();
        assert!(operator.starts_with("ServiceUnavailable"), "{operator}");
        faults.fails_with(Fault::None);
        assert_eq!(get(&build, MANIFEST).await.unwrap(), manifest(&[]));
    }
}

#[tokio::test]
async fn a_promised_layer_is_waited_for_or_its_read_fails() {
    for on_unavailable in [Miss, Fail] {
        let (endpoint, faults) = failing(on_unavailable).await;
        let layer = Bytes::from_static(b"layer");
        endpoint.store.plant(MANIFEST, manifest(&[&layer]), OffsetDateTime::now_utc());
        let key = endpoint.plant("", &layer);
        let (build, _guard) = endpoint.build_client("build", Purpose::Import);
        get(&build, MANIFEST).await.unwrap();
        faults.fails_with(Fault::Unavailable);
        let operator = get(&endpoint.client("OPERATOR"), &key).await.unwrap_err();
        assert!(operator.starts_with("ServiceUnavailable"), "{operator}");
        let before = faults.calls();
        let back = async {
            while faults.calls() == before {
                tokio::task::yield_now().await;
            }
            // Whatever the store does not answer fails.
            tokio::time::sleep(Duration::from_millis(100)).await;
            faults.fails_with(Fault::None);
        };
        let (read, ()) = tokio::join!(get(&build, &key), back);
        match read {
            Ok(read) => assert!(on_unavailable == Miss && read == layer),
            Err(refused) => assert!(on_unavailable == Fail && refused.starts_with("ServiceUnavailable"), "{refused}"),
        }
    }
}

#[tokio::test]
async fn an_export_is_dropped_as_a_whole_where_builds_may_miss_the_cache() {
    let (endpoint, faults) = failing(Miss).await;
    let layer = Bytes::from_static(b"layer");
    let chunks = [content(5 << 20, 1), content(9, 2)];
    // The store fails the lookup, or the write of the layer, or the writes of its parts.
    for (number, fault) in (1..).zip([Fault::Unavailable, Fault::UnavailableWrites, Fault::UnavailableWrites]) {
        let (build, _guard) = endpoint.exporter(&format!("build {number}"));
        faults.fails_with(fault);
        if number == 3 {
            put_in_parts(&build, &chunks).await.unwrap();
        } else {
            assert_eq!(head(&build, &blob_key(&layer)).await.is_ok(), fault == Fault::Unavailable);
            put(&build, &blob_key(&layer), &layer).await.unwrap();
        }
        // It stays dropped when the store is back: what was not stored cannot be promised.
        faults.fails_with(Fault::None);
        head(&build, &blob_key(b"another")).await.unwrap();
        put_in_parts(&build, &chunks).await.unwrap();
        put(&build, MANIFEST, &manifest(&[&layer])).await.unwrap();
        assert_eq!(endpoint.store.keys(), Vec::<String>::new());
        assert_eq!(endpoint.dropped(), number);
    }
    // The next export is not dropped.
    let (build, _guard) = endpoint.exporter("build 4");
    put(&build, &blob_key(&layer), &layer).await.unwrap();
    put(&build, MANIFEST, &manifest(&[&layer])).await.unwrap();
    assert_eq!(endpoint.store.keys(), [blob_key(&layer), MANIFEST.to_owned()]);
}

#[tokio::test]
async fn an_export_fails_where_builds_may_not_miss_the_cache_and_always_for_operators() {
    for on_unavailable in [Miss, Fail] {
        let (endpoint, faults) = failing(on_unavailable).await;
        let layer = Bytes::from_static(b"layer");
        let chunks = [content(5 << 20, 1), content(9, 2)];
        let (build, _guard) = endpoint.exporter("build");
        let mut clients = vec![endpoint.client("OPERATOR")];
        clients.extend((on_unavailable == Fail).then_some(build));
        for client in clients {
            faults.fails_with(Fault::Unavailable);
            assert_eq!(head(&client, &blob_key(&layer)).await.unwrap_err(), "503");
            faults.fails_with(Fault::UnavailableWrites);
            for refused in [put(&client, &blob_key(&layer), &layer).await, put_in_parts(&client, &chunks).await] {
                assert!(refused.as_ref().is_err_and(|refused| refused.starts_with("ServiceUnavailable")), "{refused:?}");
            }
            let refused = put(&client, MANIFEST, &manifest(&[])).await.unwrap_err();
            assert!(refused.starts_with("ServiceUnavailable"), "{refused}");
        }
        assert_eq!((endpoint.store.keys(), endpoint.dropped()), (Vec::new(), 0));
    }
}

#[tokio::test]
async fn a_blob_that_cannot_be_touched_is_left_alone_or_its_touch_fails() {
    for on_unavailable in [Miss, Fail] {
        let (endpoint, faults) = failing(on_unavailable).await;
        let (layer, other) = (Bytes::from_static(b"layer"), Bytes::from_static(b"other"));
        endpoint.store.plant(&blob_key(&layer), layer.clone(), OffsetDateTime::UNIX_EPOCH);
        let (build, _guard) = endpoint.exporter("build");
        faults.fails_with(Fault::Unavailable);
        for touched in [touch(&build, &blob_key(&layer)).await, touch_in_parts(&build, &blob_key(&layer)).await] {
            assert_eq!(touched.is_ok(), on_unavailable == Miss, "{touched:?}");
        }
        let operator = touch(&endpoint.client("OPERATOR"), &blob_key(&layer)).await;
        assert!(operator.as_ref().is_err_and(|refused| refused.starts_with("ServiceUnavailable")), "{operator:?}");
        // The export goes on.
        faults.fails_with(Fault::None);
        put(&build, &blob_key(&other), &other).await.unwrap();
        assert!(endpoint.store.keys().contains(&blob_key(&other)));
    }
}

#[tokio::test]
async fn without_room_in_the_spool_an_export_is_dropped_or_fails() {
    for on_unavailable in [Miss, Fail] {
        let store = MemoryStore::default();
        // There is no memory for uploads, so all of them go through the spool.
        let small = |settings: &mut Settings| (settings.upload_memory, settings.max_spool_bytes) = (1 << 10, 1 << 20);
        let endpoint = Endpoint::over(store.clone(), Arc::new(store), on_unavailable, small).await;
        let (fits, too_large) = (content(1 << 20, 1), content((1 << 20) + 1, 2));
        let chunks = [content(5 << 20, 1), content(9, 2)];
        let (first, _first) = endpoint.exporter("first");
        put(&first, &blob_key(&fits), &fits).await.unwrap();
        let (second, _second) = endpoint.exporter("second");
        let refused = |refused: String| assert!(refused.starts_with("SlowDown") && refused.contains("limits.max_spool_bytes"), "{refused}");
        refused(put(&endpoint.client("OPERATOR"), &blob_key(&too_large), &too_large).await.unwrap_err());
        if on_unavailable == Miss {
            put(&first, &blob_key(&too_large), &too_large).await.unwrap();
            put_in_parts(&second, &chunks).await.unwrap();
            for build in [first, second] {
                put(&build, MANIFEST, &manifest(&[&fits])).await.unwrap();
            }
        } else {
            refused(put(&first, &blob_key(&too_large), &too_large).await.unwrap_err());
        }
        assert_eq!((endpoint.store.keys(), endpoint.dropped()), (vec![blob_key(&fits)], if on_unavailable == Miss { 2 } else { 0 }));
    }
}

#[tokio::test]
async fn a_manifest_above_the_bound_drops_the_export_or_is_refused() {
    for on_unavailable in [Miss, Fail] {
        let store = MemoryStore::default();
        let small = |settings: &mut Settings| settings.max_manifest_bytes = 100;
        let endpoint = Endpoint::over(store.clone(), Arc::new(store), on_unavailable, small).await;
        let (build, _guard) = endpoint.exporter("build");
        let sent = put(&build, MANIFEST, &manifest(&[b"layer"])).await;
        match sent {
            Ok(()) => assert!(on_unavailable == Miss),
            Err(refused) => assert!(on_unavailable == Fail && refused.starts_with("EntityTooLarge"), "{refused}"),
        }
        assert_eq!((endpoint.store.keys(), endpoint.dropped()), (Vec::new(), u64::from(on_unavailable == Miss)));
    }
}

#[tokio::test]
async fn one_upload_too_many_drops_the_export_or_is_refused() {
    for on_unavailable in [Miss, Fail] {
        let store = MemoryStore::default();
        let endpoint = Endpoint::over(store.clone(), Arc::new(store), on_unavailable, |settings| settings.max_open_ingests = 1).await;
        let operator = endpoint.client("OPERATOR");
        let chunks = [content(5 << 20, 1), content(9, 2)];
        let key = blob_key(b"another");
        let open = operator.create_multipart_upload().bucket(BUCKET).key(&key).send().await.unwrap();
        let refused =
            |refused: String| assert!(refused.starts_with("SlowDown") && refused.contains("limits.max_open_ingests"), "{refused}");
        refused(put_in_parts(&operator, &chunks).await.unwrap_err());
        let (build, _guard) = endpoint.exporter("build");
        match put_in_parts(&build, &chunks).await {
            Ok(()) => {
                assert!(on_unavailable == Miss);
                put(&build, MANIFEST, &manifest(&[])).await.unwrap();
            }
            Err(error) => {
                assert!(on_unavailable == Fail);
                refused(error);
            }
        }
        assert_eq!((endpoint.store.keys(), endpoint.dropped()), (Vec::new(), u64::from(on_unavailable == Miss)));
        operator.abort_multipart_upload().bucket(BUCKET).key(&key).upload_id(open.upload_id().unwrap()).send().await.unwrap();
        put_in_parts(&operator, &chunks).await.unwrap();
    }
}
