//! `containerd.services.content.v1.Content`: blobs as they are read, described, listed and deleted.

use std::collections::HashMap;

use remora::proto::content as api;
use remora::types::Digest;
use tonic::Code;

use super::endpoint::{Endpoint, Write, commit, files, stat, with, write};
use super::requests::{info, pattern, read, read_all};

#[tokio::test]
async fn a_blob_is_written_in_chunks_and_read_in_parts() {
    let directory = Endpoint::on_directory().await;
    let (minio, _) = Endpoint::on_minio("ci/").await;
    for endpoint in [directory, minio] {
        let blob = pattern((5 << 20) + 7);
        let digest = Digest::of(&blob);
        let total = i64::try_from(blob.len()).unwrap();
        let mut stream = endpoint.write().await;
        let opened = stream.exchange(stat("layer", total, &digest.to_string())).await.unwrap();
        assert_eq!((opened.offset, opened.total), (0, total));
        assert_eq!(opened.digest, Digest::of(b"").to_string());
        let mut offset = 0;
        for chunk in blob.chunks(2 << 20) {
            let answer = stream.exchange(write(offset, chunk)).await.unwrap();
            offset += i64::try_from(chunk.len()).unwrap();
            assert_eq!(answer.offset, offset);
            assert_eq!(answer.digest, Digest::of(&blob[..usize::try_from(offset).unwrap()]).to_string());
            // The spool has every byte that was acknowledged.
            let data = endpoint.spool().into_iter().find(|name| name.ends_with(".data")).unwrap();
            assert_eq!(std::fs::metadata(endpoint.data.path().join("spool").join(data)).unwrap().len(), offset.cast_unsigned());
        }
        assert_eq!(info(&endpoint, &digest).await.unwrap_err().code(), Code::NotFound);
        let done = stream.exchange(commit("", total, &digest.to_string())).await.unwrap();
        assert_eq!((done.offset, done.digest), (total, digest.to_string()));
        stream.close().await;
        assert_eq!(endpoint.spool(), Vec::<String>::new());

        let (whole, sizes) = read_all(&endpoint, read(&digest, 0, 0)).await.unwrap();
        assert!(whole == blob);
        assert!(sizes.iter().all(|&size| size <= 1 << 20) && sizes.len() <= 24, "{sizes:?}");
        for (offset, size) in [(0, 1), (1, 0), (total - 1, 0), (total - 1, 1000), (1 << 20, 3 << 20), (5, i64::MAX), (total, 0), (total, 9)]
        {
            let from = usize::try_from(offset).unwrap();
            let to = offset.saturating_add(if size == 0 { i64::MAX } else { size }).min(total);
            let (part, _) = read_all(&endpoint, read(&digest, offset, size)).await.unwrap();
            assert!(part == blob[from..usize::try_from(to).unwrap()], "{offset} {size}");
        }
        for (offset, size) in [(total + 1, 0), (total + 1, 1), (i64::MAX, 1), (i64::MAX, 0), (-1, 0), (0, -1), (i64::MIN, 5)] {
            assert_eq!(read_all(&endpoint, read(&digest, offset, size)).await.unwrap_err().code(), Code::OutOfRange, "{offset} {size}");
        }
    }
}

#[tokio::test]
async fn calls_that_follow_one_another_are_one_read_of_the_store() {
    let (endpoint, store) = Endpoint::on_memory().await;
    let blob = pattern((3 << 20) + 5);
    let digest = Digest::of(&blob);
    store.plant(&format!("blobs/{digest}"), blob.clone().into(), time::OffsetDateTime::now_utc());
    let mut whole = Vec::new();
    while whole.len() < blob.len() {
        whole.extend(read_all(&endpoint, read(&digest, i64::try_from(whole.len()).unwrap(), 700_000)).await.unwrap().0);
    }
    assert!(whole == blob);
    assert_eq!(store.reads().borrow().begun, 1);
    // A call that goes back in the blob is a new read of the store.
    assert!(read_all(&endpoint, read(&digest, 10, 700_000)).await.unwrap().0 == blob[10..700_010]);
    assert_eq!(store.reads().borrow().begun, 2);
}

#[tokio::test]
async fn an_empty_blob_is_a_blob() {
    let endpoint = Endpoint::on_directory().await;
    let empty = endpoint.store(b"").await;
    assert_eq!(info(&endpoint, &empty).await.unwrap().size, 0);
    for (offset, size) in [(0, 0), (0, 10)] {
        assert_eq!(read_all(&endpoint, read(&empty, offset, size)).await.unwrap().0, b"");
    }
    assert_eq!(read_all(&endpoint, read(&empty, 1, 0)).await.unwrap_err().code(), Code::OutOfRange);
}

#[tokio::test]
async fn text_that_is_no_digest_is_refused_everywhere() {
    let endpoint = Endpoint::on_directory().await;
    let upper = Digest::of(b"").to_string().to_uppercase();
    for digest in ["", "sha256:", "sha256:../../../etc/passwd", "../x", "sha256:zz", "sha512:00", "sha256:%2e%2e", &upper] {
        let mut client = endpoint.content();
        let digest = digest.to_owned();
        let codes = [
            client.info(api::InfoRequest { digest: digest.clone() }).await.unwrap_err().code(),
            client.delete(api::DeleteContentRequest { digest: digest.clone() }).await.unwrap_err().code(),
            client.read(read(&digest, 0, 0)).await.unwrap_err().code(),
            client
                .update(api::UpdateRequest { info: Some(api::Info { digest: digest.clone(), ..Default::default() }), update_mask: None })
                .await
                .unwrap_err()
                .code(),
        ];
        assert_eq!(codes, [Code::InvalidArgument; 4], "{digest}");
        if !digest.is_empty() {
            let refused = endpoint.write().await.exchange(stat("ref", 0, &digest)).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{digest}");
        }
    }
    assert_eq!(endpoint.content().update(api::UpdateRequest::default()).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(endpoint.spool(), Vec::<String>::new());
}

#[tokio::test]
async fn a_missing_blob_is_not_found() {
    let endpoint = Endpoint::on_directory().await;
    let digest = Digest::of(b"nowhere").to_string();
    let mut client = endpoint.content();
    assert_eq!(client.info(api::InfoRequest { digest: digest.clone() }).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(client.read(read(&digest, 0, 0)).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(client.read(read(&digest, 7, 1)).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(client.delete(api::DeleteContentRequest { digest: digest.clone() }).await.unwrap_err().code(), Code::NotFound);
    let info = Some(api::Info { digest, ..Default::default() });
    assert_eq!(client.update(api::UpdateRequest { info, update_mask: None }).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(client.status(api::StatusRequest { r#ref: "none".to_owned() }).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(client.abort(api::AbortRequest { r#ref: "none".to_owned() }).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn labels_change_as_the_mask_says() {
    let endpoint = Endpoint::on_directory().await;
    let digest = endpoint.store(b"layer").await;
    let labels =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<HashMap<_, _>>();
    let update = |given: HashMap<String, String>, paths: &[&str]| {
        let update_mask = Some(prost_types::FieldMask { paths: paths.iter().map(|&path| path.to_owned()).collect() });
        let info = Some(api::Info { digest: digest.to_string(), labels: given, ..Default::default() });
        let mut client = endpoint.content();
        async move { client.update(api::UpdateRequest { info, update_mask }).await.map(|response| response.into_inner().info.unwrap().labels) }
    };
    let all = labels(&[("a", "1"), ("b", "2"), ("dotted.key/x", "3")]);
    assert_eq!(update(all.clone(), &[]).await.unwrap(), all);
    let changed = labels(&[("a", "9"), ("c", "4")]);
    let wanted = labels(&[("a", "9"), ("b", "2")]);
    assert_eq!(update(changed.clone(), &["labels.a", "labels.dotted.key/x"]).await.unwrap(), wanted);
    assert_eq!(update(labels(&[("b", "")]), &["labels.b"]).await.unwrap(), labels(&[("a", "9")]));
    assert_eq!(update(changed.clone(), &["labels"]).await.unwrap(), changed);
    assert_eq!(info(&endpoint, &digest).await.unwrap().labels, changed);
    for path in ["size", "digest", "label", ""] {
        assert_eq!(update(HashMap::new(), &["labels", path]).await.unwrap_err().code(), Code::InvalidArgument, "{path}");
    }
    assert_eq!(update(labels(&[("k", &"v".repeat(4096))]), &[]).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(info(&endpoint, &digest).await.unwrap().labels, changed);
    // Of changes at the same time none is lost.
    let changes = (0..5).map(|index| update(labels(&[(&format!("k{index}"), "v")]), &[&format!("labels.k{index}")]));
    for change in futures_util::future::join_all(changes).await {
        change.unwrap();
    }
    assert_eq!(info(&endpoint, &digest).await.unwrap().labels.len(), 2 + 5);
}

#[tokio::test]
async fn a_listing_pages_and_filters() {
    let (endpoint, _) = Endpoint::on_minio("").await;
    let mut stored = Vec::new();
    for index in 0..120 {
        stored.push(endpoint.store(format!("blob {index}").as_bytes()).await.to_string());
    }
    stored.sort();
    let labels = HashMap::from([("kind".to_owned(), "odd one".to_owned())]);
    let info = Some(api::Info { digest: stored[110].clone(), labels, ..Default::default() });
    endpoint.content().update(api::UpdateRequest { info, update_mask: None }).await.unwrap();
    let list = |filters: &[&str]| {
        let filters = filters.iter().map(|&filter| filter.to_owned()).collect();
        let mut client = endpoint.content();
        async move {
            let mut found = Vec::new();
            let mut stream = client.list(api::ListContentRequest { filters }).await?.into_inner();
            while let Some(message) = stream.message().await? {
                assert!((1..=100).contains(&message.info.len()));
                found.extend(message.info.into_iter().map(|info| info.digest));
            }
            Ok::<_, tonic::Status>(found)
        }
    };
    assert_eq!(list(&[]).await.unwrap(), stored);
    assert_eq!(list(&[r#"labels.kind=="odd one""#]).await.unwrap(), stored[110..111]);
    assert_eq!(list(&["labels.kind"]).await.unwrap(), stored[110..111]);
    assert_eq!(list(&["labels.none"]).await.unwrap(), Vec::<String>::new());
    assert_eq!(list(&[&format!("digest=={}", stored[3]), &format!("digest=={}", stored[115])]).await.unwrap(), [&*stored[3], &stored[115]]);
    assert_eq!(list(&["digest=="]).await.unwrap_err().code(), Code::InvalidArgument);
    endpoint.content().delete(api::DeleteContentRequest { digest: stored[0].clone() }).await.unwrap();
    assert_eq!(list(&[]).await.unwrap(), stored[1..]);
}

#[tokio::test]
async fn the_scope_is_that_of_the_metadata() {
    let endpoint = Endpoint::on_directory().await;
    let layout = [("remora-bucket", "other"), ("remora-prefix", "team/"), ("remora-blobs-prefix", "b-"), ("remora-manifests-prefix", "m-")];
    let mut stream = Write::open(endpoint.content(), &layout).await;
    let request = api::WriteContentRequest { data: b"x".to_vec().into(), ..commit("layer", 0, "") };
    stream.exchange(request).await.unwrap();
    let digest = Digest::of(b"x").to_string();
    let folder = endpoint.data.path().join("store/other/team");
    assert!(files(&folder).contains(&format!("b-{digest}")), "{:?}", files(&folder));
    let request = api::InfoRequest { digest };
    assert!(endpoint.content().info(with(request.clone(), &layout)).await.is_ok());
    for (elsewhere, code) in [
        (vec![], Code::NotFound),
        (vec![("remora-bucket", "other")], Code::NotFound),
        (vec![("remora-bucket", "other"), ("remora-prefix", "team/")], Code::NotFound),
        (vec![("remora-bucket", "../other")], Code::InvalidArgument),
        (vec![("remora-bucket", "a..b")], Code::InvalidArgument),
        (vec![("remora-bucket", "other"), ("remora-bucket", "another")], Code::InvalidArgument),
        (vec![("remora-prefix", "x".repeat(401).leak() as &str)], Code::InvalidArgument),
    ] {
        assert_eq!(endpoint.content().info(with(request.clone(), &elsewhere)).await.unwrap_err().code(), code, "{elsewhere:?}");
    }

    let (endpoint, bucket) = Endpoint::on_minio("ci/").await;
    let digest = endpoint.store(b"x").await.to_string();
    let request = api::InfoRequest { digest };
    for (metadata, code) in [
        (vec![], Code::Ok),
        (vec![("remora-bucket", &*bucket)], Code::Ok),
        (vec![("remora-prefix", "ci/")], Code::Ok),
        (vec![("remora-prefix", "ci/x/")], Code::NotFound),
        (vec![("remora-prefix", "")], Code::PermissionDenied),
        (vec![("remora-prefix", "other/")], Code::PermissionDenied),
        (vec![("remora-bucket", "other")], Code::PermissionDenied),
    ] {
        let answer = endpoint.content().info(with(request.clone(), &metadata)).await;
        assert_eq!(answer.as_ref().map_or_else(tonic::Status::code, |_| Code::Ok), code, "{metadata:?}");
        if code == Code::PermissionDenied {
            assert!(answer.unwrap_err().message().contains("this remora serves bucket"), "{metadata:?}");
        }
    }
}
