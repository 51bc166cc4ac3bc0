//! The cache core over a directory store: what becomes visible when, and for whom.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use remora::cache::layout::Item;
use remora::cache::{Condition, Error, Incoming, NewPart};
use remora::types::{ByteRange, Digest, Documents, Grant, ManifestName, Rights};

use super::content;
use crate::support::cache::{Fixture, Setup, incoming, scope, scope_below};

/// A cache over a directory.
async fn on_directory() -> Fixture {
    Setup::directory().start(|_| ()).await
}

fn manifest(digests: &[Digest]) -> Bytes {
    let layer = |digest: &Digest| {
        serde_json::json!({"blob": digest.to_string(), "parent": -1, "annotations":
            {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "diffID": digest.to_string(), "size": 5, "createdAt": "2026-01-01T00:00:00Z"}})
    };
    let layers: Vec<_> = digests.iter().map(layer).collect();
    serde_json::to_vec(&serde_json::json!({"layers": layers, "records": []})).unwrap().into()
}

fn name(text: &str) -> ManifestName {
    text.parse().unwrap()
}

#[tokio::test]
async fn blobs_of_every_size_come_back_whole_and_in_parts() {
    let fixture = on_directory().await;
    for len in [0, 1, 4096, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, 5 << 20] {
        let bytes = content(len);
        let digest = fixture.put(&bytes).await;
        assert_eq!(fixture.cache.blobs().stat(&fixture.grant, &digest).await.unwrap().size, len as u64);
        assert!(fixture.read(&digest, None).await.unwrap() == bytes, "{len}");
        if len > 10 {
            let range = ByteRange::new(3, len as u64 + 99);
            assert!(fixture.read(&digest, range).await.unwrap() == bytes[3..], "{len}");
        }
        let behind = fixture.read(&digest, ByteRange::new(len as u64 + 1, len as u64 + 2)).await;
        assert!(matches!(behind, Err(Error::OutOfRange(_))), "{len}: {behind:?}");
    }
    assert_eq!(fixture.spool_files(), 0);
}

#[tokio::test]
async fn bytes_that_do_not_have_their_digest_are_never_visible() {
    let fixture = on_directory().await;
    for len in [10_usize, 3 << 20] {
        let bytes = content(len);
        let other = Digest::of(b"another");
        let size = len as u64;
        for (digest, announced) in [(other, size), (Digest::of(&bytes), size - 1), (Digest::of(&bytes), size + 1)] {
            let error = fixture.cache.blobs().put(&fixture.grant, &digest, announced, incoming(&bytes)).await.unwrap_err();
            assert!(matches!(error, Error::Precondition(_)), "{error}");
            assert!(matches!(fixture.cache.blobs().stat(&fixture.grant, &digest).await, Err(Error::NotFound(_))));
        }
        let broken: Incoming = stream::iter([Ok(Bytes::from_static(b"abc")), Err(Error::Unavailable("gone".to_owned()))]).boxed();
        assert!(fixture.cache.blobs().put(&fixture.grant, &other, size, broken).await.is_err());
    }
    assert_eq!(fixture.spool_files(), 0);
}

#[tokio::test]
async fn a_manifest_is_published_when_all_its_blobs_are_there() {
    let fixture = on_directory().await;
    let cache = &fixture.cache;
    let grant = &fixture.grant;
    let there = fixture.put(b"there").await;
    let missing = Digest::of(b"missing");
    let error = cache.manifests().publish(grant, &name("app"), manifest(&[there, missing]), Condition::None).await.unwrap_err();
    assert!(matches!(&error, Error::Precondition(text) if text.contains(&missing.to_string())), "{error}");
    assert!(matches!(cache.manifests().get(grant, &name("app")).await, Err(Error::NotFound(_))));

    let document = manifest(&[there]);
    let etag = cache.manifests().publish(grant, &name("app"), document.clone(), Condition::Absent).await.unwrap();
    let read = cache.manifests().get(grant, &name("app")).await.unwrap();
    assert_eq!((read.bytes, read.etag), (document.clone(), etag.clone()));
    let again = cache.manifests().publish(grant, &name("app"), document.clone(), Condition::Absent).await;
    assert!(matches!(again, Err(Error::Conflict(_))), "{again:?}");
    let newer = cache.manifests().publish(grant, &name("app"), manifest(&[]), Condition::Matches(etag.clone())).await.unwrap();
    assert_ne!(newer, etag);
    assert!(cache.manifests().publish(grant, &name("app"), document, Condition::Matches(etag)).await.is_err());

    for (bad, wanted) in [(Bytes::from_static(b"{"), "malformed"), (Bytes::from(vec![b' '; (1 << 20) + 1]), "max_manifest_bytes")] {
        let error = cache.manifests().publish(grant, &name("bad"), bad, Condition::None).await.unwrap_err().to_string();
        assert!(error.contains(wanted), "{error}");
    }
    cache.manifests().publish(grant, &name("app/next"), manifest(&[there]), Condition::None).await.unwrap();
    let (listed, more) = cache.manifests().list(grant, None, 1000).await.unwrap();
    assert_eq!(listed.iter().map(|info| info.name.as_str()).collect::<Vec<_>>(), ["app", "app/next"]);
    assert!(!more);
    cache.manifests().delete(grant, &name("app")).await.unwrap();
    assert!(matches!(cache.manifests().delete(grant, &name("app")).await, Err(Error::NotFound(_))));
    assert!(cache.manifests().get(grant, &name("app/next")).await.is_ok());
}

#[tokio::test]
async fn a_stored_document_that_is_no_cache_config_is_corrupt() {
    let fixture = on_directory().await;
    let folder = fixture.dir.path().join("store/bucket/manifests");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("app"), "not json").unwrap();
    let read = fixture.cache.manifests().get(&fixture.grant, &name("app")).await;
    assert!(matches!(read, Err(Error::Corrupt(_))), "{read:?}");
}

#[tokio::test]
async fn a_grant_reaches_its_own_scope_and_what_it_was_shown() {
    let fixture = on_directory().await;
    let cache = &fixture.cache;
    let blob = fixture.put(b"blob").await;
    let secret = fixture.put(b"secret").await;
    cache.manifests().publish(&fixture.grant, &name("app"), manifest(&[blob]), Condition::None).await.unwrap();
    cache.manifests().publish(&fixture.grant, &name("other"), manifest(&[secret]), Condition::None).await.unwrap();

    let import = Grant::builder(scope(), Rights::IMPORT).names(&[name("app")]).disclosed_blobs_only().build();
    assert!(matches!(cache.blobs().read(&import, &blob, None).await, Err(Error::Denied(_))));
    cache.manifests().get(&import, &name("app")).await.unwrap();
    cache.blobs().read(&import, &blob, None).await.unwrap();
    assert!(matches!(cache.blobs().read(&import, &secret, None).await, Err(Error::Denied(_))));
    assert!(matches!(cache.manifests().get(&import, &name("other")).await, Err(Error::Denied(_))));
    assert!(matches!(cache.blobs().put(&import, &Digest::of(b"x"), 1, incoming(b"x")).await, Err(Error::Denied(_))));
    assert!(matches!(cache.blobs().delete(&import, &blob).await, Err(Error::Denied(_))));
    assert_eq!((import.usage().manifests_read(), import.usage().layers_offered(), import.usage().blobs_served()), (1, 1, 1));

    let export = Grant::builder(scope(), Rights::EXPORT).names(&[name("app")]).build();
    assert!(matches!(cache.blobs().read(&export, &blob, None).await, Err(Error::Denied(_))));
    assert!(matches!(cache.manifests().publish(&export, &name("other"), manifest(&[]), Condition::None).await, Err(Error::Denied(_))));
    cache.manifests().publish(&export, &name("app"), manifest(&[blob]), Condition::None).await.unwrap();

    let elsewhere = Grant::operator(scope_below("team/"));
    assert!(matches!(cache.blobs().stat(&elsewhere, &blob).await, Err(Error::NotFound(_))));
}

#[tokio::test]
async fn an_upload_joins_parts_in_any_order() {
    let fixture = on_directory().await;
    let cache = &fixture.cache;
    let grant = &fixture.grant;
    let bytes = content((5 << 20) * 2 + 77);
    let item = Item::Blob(Digest::of(&bytes));
    let id = cache.uploads().begin(grant, item.clone()).unwrap();
    let mut parts = Vec::new();
    for (number, part) in (1_u16..).zip(bytes.chunks(5 << 20)).collect::<Vec<_>>().into_iter().rev() {
        let etag =
            cache.uploads().take_part(grant, &item, &id, NewPart { number, size: part.len() as u64, body: incoming(part) }).await.unwrap();
        parts.insert(0, (number, etag));
    }
    let wrong = cache.uploads().complete(grant, &item, &id, &parts[..2], Condition::None).await;
    assert!(matches!(wrong, Err(Error::Precondition(_))), "{wrong:?}");
    let stranger = Grant::operator(scope_below("team/"));
    assert!(matches!(cache.uploads().complete(&stranger, &item, &id, &parts, Condition::None).await, Err(Error::NotFound(_))));
    cache.uploads().complete(grant, &item, &id, &parts, Condition::None).await.unwrap();
    assert!(fixture.read(&Digest::of(&bytes), None).await.unwrap() == bytes);
    assert!(matches!(cache.uploads().abort(grant, &item, &id).await, Err(Error::NotFound(_))));
    assert_eq!(fixture.spool_files(), 0);

    let id = cache.uploads().begin(grant, item.clone()).unwrap();
    let copied = cache.uploads().take_part_of_itself(grant, &item, &id, 1).unwrap();
    cache.uploads().complete(grant, &item, &id, &[(1, copied)], Condition::None).await.unwrap();

    let open: Vec<_> = (0..4).map(|_| cache.uploads().begin(grant, item.clone()).unwrap()).collect();
    assert!(matches!(cache.uploads().begin(grant, item.clone()), Err(Error::Exhausted(_))));
    cache.uploads().take_part(grant, &item, &open[0], NewPart { number: 1, size: 3, body: incoming(b"abc") }).await.unwrap();
    cache.uploads().abort(grant, &item, &open[0]).await.unwrap();
    assert_eq!(fixture.spool_files(), 0);
    cache.uploads().begin(grant, item.clone()).unwrap();
}

#[tokio::test]
async fn an_ingest_is_taken_up_by_the_next_writer_and_the_next_process() {
    let setup = Setup::directory();
    let fixture = setup.start(|_| ()).await;
    let cache = &fixture.cache;
    let grant = &fixture.grant;
    let bytes = content(100_000);
    let (first, rest) = (Bytes::copy_from_slice(&bytes[..40_000]), Bytes::copy_from_slice(&bytes[40_000..]));
    let mut writer = cache.ingests().open_writer(grant, "ref", 0, None).await.unwrap();
    writer.write(0, first.clone()).await.unwrap();
    assert!(matches!(cache.ingests().open_writer(grant, "ref", 0, None).await, Err(Error::Locked(_))));
    assert!(matches!(writer.write(7, rest.clone()).await, Err(Error::OutOfRange(_))));
    let status = writer.status().unwrap();
    drop(writer);
    assert_eq!(cache.ingests().status(grant, "ref").unwrap(), status);

    let reopened = setup.start(|_| ()).await.cache;
    let mut writer = reopened.ingests().open_writer(grant, "ref", 0, None).await.unwrap();
    assert_eq!((writer.status().unwrap().offset, writer.digest().unwrap()), (40_000, Some(Digest::of(&first))));
    writer.write(40_000, rest).await.unwrap();
    let labels = BTreeMap::from([("k".to_owned(), "v".to_owned())]);
    assert_eq!(writer.commit(Some(100_000), None, labels.clone()).await.unwrap(), (Digest::of(&bytes), 100_000));
    assert_eq!(reopened.labels().of(grant, &Digest::of(&bytes)).await.unwrap().labels, labels);
    assert!(matches!(reopened.ingests().status(grant, "ref"), Err(Error::NotFound(_))));
    assert_eq!(fixture.spool_files(), 0);
    assert!(fixture.read(&Digest::of(&bytes), None).await.unwrap() == bytes);
    assert!(matches!(reopened.ingests().open_writer(grant, "ref", 0, Some(Digest::of(&bytes))).await, Err(Error::AlreadyExists(_))));
}

#[tokio::test]
async fn a_refused_commit_keeps_the_ingest() {
    let fixture = on_directory().await;
    let cache = &fixture.cache;
    let grant = &fixture.grant;
    for (size, expected) in [(Some(2), None), (None, Some(Digest::of(b"other")))] {
        let mut writer = cache.ingests().open_writer(grant, "ref", 0, None).await.unwrap();
        if writer.status().unwrap().offset == 0 {
            writer.write(0, Bytes::from_static(b"abc")).await.unwrap();
        }
        assert!(matches!(writer.commit(size, expected, BTreeMap::new()).await, Err(Error::Precondition(_))));
        assert_eq!(cache.ingests().status(grant, "ref").unwrap().offset, 3);
    }
    cache.ingests().abort(grant, "ref").await.unwrap();
    assert!(matches!(cache.ingests().abort(grant, "ref").await, Err(Error::NotFound(_))));
    assert_eq!(fixture.spool_files(), 0);
}

#[tokio::test]
async fn labels_change_under_concurrent_writers() {
    let fixture = on_directory().await;
    let blob = fixture.put(b"blob").await;
    let updates = (0..16).map(|index| {
        let cache = fixture.cache.clone();
        let grant = fixture.grant.clone();
        async move { cache.labels().update(&grant, &blob, |labels| drop(labels.insert(format!("k{index}"), "v".to_owned()))).await }
    });
    for update in futures_util::future::join_all(updates).await {
        update.unwrap();
    }
    assert_eq!(fixture.cache.labels().of(&fixture.grant, &blob).await.unwrap().labels.len(), 16);
    let huge = fixture.cache.labels().update(&fixture.grant, &blob, |labels| drop(labels.insert("k".to_owned(), "v".repeat(4096)))).await;
    assert!(matches!(huge, Err(Error::Invalid(_))), "{huge:?}");
}

#[tokio::test]
async fn an_ingest_of_a_session_ends_with_its_writer() {
    let fixture = on_directory().await;
    let documents = Arc::new(Documents::new(1 << 20));
    let session = Grant::builder(scope(), Rights::EXPORT).documents(documents).build();
    // An ingest that may be taken up again has a second file, which says what it is.
    for (grant, files, left) in [(&session, 1, 0), (&fixture.grant, 2, 2)] {
        let mut ingest = fixture.cache.ingests().open_writer(grant, "layer", 0, None).await.unwrap();
        ingest.write(0, Bytes::from_static(b"half")).await.unwrap();
        assert_eq!(fixture.spool_files(), files);
        ingest.close().await;
        assert_eq!(fixture.spool_files(), left);
        assert_eq!(fixture.cache.ingests().status(grant, "layer").is_ok(), left > 0);
    }
}

#[tokio::test]
async fn a_session_learns_at_its_next_call_that_a_write_failed() {
    let fixture = on_directory().await;
    let grant = Grant::builder(scope(), Rights::EXPORT).documents(Arc::new(Documents::new(1 << 20))).build();
    let mut ingest = fixture.cache.ingests().open_writer(&grant, "layer", 0, None).await.unwrap();
    ingest.write(0, Bytes::from_static(b"first")).await.unwrap();
    assert_eq!((ingest.status().unwrap().offset, ingest.digest().unwrap()), (5, None));
    let gap = ingest.write(6, Bytes::from_static(b"gap")).await;
    assert!(matches!(gap, Err(Error::OutOfRange(_))), "{gap:?}");
    assert_eq!(ingest.digest().unwrap(), Some(Digest::of(b"first")));
    fixture.cache.ingests().abort(&grant, "layer").await.unwrap();
    ingest.write(5, Bytes::from_static(b"nobody's")).await.unwrap_err();
}
