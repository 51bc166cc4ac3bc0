//! `containerd.services.content.v1.Content`, call by call.

use std::collections::HashMap;
use std::fmt::Display;
use std::sync::Arc;
use std::time::Duration;

use remora::proto::content as api;
use remora::types::Digest;
use tonic::Code;

use super::sidecar::{MAX_INGESTS, Sidecar, Write, commit, files, stat, with, write};

fn read(digest: &dyn Display, offset: i64, size: i64) -> api::ReadContentRequest {
    api::ReadContentRequest { digest: digest.to_string(), offset, size }
}

/// The bytes of a read, and how large its messages were.
async fn read_all(sidecar: &Sidecar, request: api::ReadContentRequest) -> Result<(Vec<u8>, Vec<usize>), tonic::Status> {
    let (mut offset, mut data, mut sizes) = (request.offset, Vec::new(), Vec::new());
    let mut stream = sidecar.content().read(request).await?.into_inner();
    while let Some(message) = stream.message().await? {
        assert_eq!(message.offset, offset);
        offset += i64::try_from(message.data.len()).unwrap();
        sizes.push(message.data.len());
        data.extend_from_slice(&message.data);
    }
    Ok((data, sizes))
}

fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|at| u8::try_from(at * 31 % 251).unwrap()).collect()
}

async fn info(sidecar: &Sidecar, digest: &Digest) -> Result<api::Info, tonic::Status> {
    let request = api::InfoRequest { digest: digest.to_string() };
    sidecar.content().info(request).await.map(|response| response.into_inner().info.unwrap())
}

async fn status(sidecar: &Sidecar, reference: &str) -> Result<api::Status, tonic::Status> {
    let request = api::StatusRequest { r#ref: reference.to_owned() };
    sidecar.content().status(request).await.map(|response| response.into_inner().status.unwrap())
}

/// Tries until nobody holds the ref: a server learns of a cancelled stream in its own time.
async fn open_free(sidecar: &Sidecar, request: api::WriteContentRequest) -> (Write, api::WriteContentResponse) {
    let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
    loop {
        let mut stream = sidecar.write().await;
        match stream.exchange(request.clone()).await {
            Ok(answer) => return (stream, answer),
            Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status}"),
        }
        assert!(tokio::time::Instant::now() < deadline, "the ref stays locked");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_blob_is_written_in_pieces_and_read_in_parts() {
    let directory = Sidecar::on_directory().await;
    let (minio, _) = Sidecar::on_minio("ci/").await;
    for sidecar in [directory, minio] {
        let blob = pattern((5 << 20) + 7);
        let (digest, total) = (Digest::of(&blob), i64::try_from(blob.len()).unwrap());
        let mut stream = sidecar.write().await;
        let opened = stream.exchange(stat("layer", total, &digest.to_string())).await.unwrap();
        assert_eq!((opened.offset, opened.total), (0, total));
        assert_eq!(opened.digest, Digest::of(b"").to_string());
        let mut offset = 0;
        for piece in blob.chunks(2 << 20) {
            let answer = stream.exchange(write(offset, piece)).await.unwrap();
            offset += i64::try_from(piece.len()).unwrap();
            assert_eq!(answer.offset, offset);
            assert_eq!(answer.digest, Digest::of(&blob[..usize::try_from(offset).unwrap()]).to_string());
            // What is answered for is in the spool.
            let data = sidecar.spool().into_iter().find(|name| name.ends_with(".data")).unwrap();
            assert_eq!(std::fs::metadata(sidecar.data.path().join("spool").join(data)).unwrap().len(), offset.cast_unsigned());
        }
        assert_eq!(info(&sidecar, &digest).await.unwrap_err().code(), Code::NotFound);
        let done = stream.exchange(commit("", total, &digest.to_string())).await.unwrap();
        assert_eq!((done.offset, done.digest), (total, digest.to_string()));
        stream.close().await;
        assert_eq!(sidecar.spool(), Vec::<String>::new());

        let (whole, sizes) = read_all(&sidecar, read(&digest, 0, 0)).await.unwrap();
        assert!(whole == blob);
        assert!(sizes.iter().all(|&size| size <= 1 << 20) && sizes.len() <= 24, "{sizes:?}");
        for (offset, size) in [(0, 1), (1, 0), (total - 1, 0), (total - 1, 1000), (1 << 20, 3 << 20), (5, i64::MAX), (total, 0), (total, 9)]
        {
            let (from, to) = (usize::try_from(offset).unwrap(), offset.saturating_add(if size == 0 { i64::MAX } else { size }).min(total));
            let (part, _) = read_all(&sidecar, read(&digest, offset, size)).await.unwrap();
            assert!(part == blob[from..usize::try_from(to).unwrap()], "{offset} {size}");
        }
        for (offset, size) in [(total + 1, 0), (total + 1, 1), (i64::MAX, 1), (i64::MAX, 0), (-1, 0), (0, -1), (i64::MIN, 5)] {
            assert_eq!(read_all(&sidecar, read(&digest, offset, size)).await.unwrap_err().code(), Code::OutOfRange, "{offset} {size}");
        }
    }
}

#[tokio::test]
async fn calls_that_follow_one_another_are_one_read_of_the_store() {
    let (sidecar, store) = Sidecar::on_memory().await;
    let blob = pattern((3 << 20) + 5);
    let digest = Digest::of(&blob);
    store.plant(&format!("blobs/{digest}"), blob.clone().into(), time::OffsetDateTime::now_utc());
    let mut whole = Vec::new();
    while whole.len() < blob.len() {
        whole.extend(read_all(&sidecar, read(&digest, i64::try_from(whole.len()).unwrap(), 700_000)).await.unwrap().0);
    }
    assert!(whole == blob);
    assert_eq!(store.reads().borrow().begun, 1);
    // One that goes back is another.
    assert!(read_all(&sidecar, read(&digest, 10, 700_000)).await.unwrap().0 == blob[10..700_010]);
    assert_eq!(store.reads().borrow().begun, 2);
}

#[tokio::test]
async fn an_empty_blob_is_a_blob() {
    let sidecar = Sidecar::on_directory().await;
    let empty = sidecar.store(b"").await;
    assert_eq!(info(&sidecar, &empty).await.unwrap().size, 0);
    for (offset, size) in [(0, 0), (0, 10)] {
        assert_eq!(read_all(&sidecar, read(&empty, offset, size)).await.unwrap().0, b"");
    }
    assert_eq!(read_all(&sidecar, read(&empty, 1, 0)).await.unwrap_err().code(), Code::OutOfRange);
}

#[tokio::test]
async fn what_is_no_digest_is_refused_everywhere() {
    let sidecar = Sidecar::on_directory().await;
    let upper = Digest::of(b"").to_string().to_uppercase();
    for digest in ["", "sha256:", "sha256:../../../etc/passwd", "../x", "sha256:zz", "sha512:00", "sha256:%2e%2e", &upper] {
        let (mut client, digest) = (sidecar.content(), digest.to_owned());
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
            let refused = sidecar.write().await.exchange(stat("ref", 0, &digest)).await.unwrap_err();
            assert_eq!(refused.code(), Code::InvalidArgument, "{digest}");
        }
    }
    assert_eq!(sidecar.content().update(api::UpdateRequest::default()).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(sidecar.spool(), Vec::<String>::new());
}

#[tokio::test]
async fn a_missing_blob_is_not_found() {
    let sidecar = Sidecar::on_directory().await;
    let digest = Digest::of(b"nowhere").to_string();
    let mut client = sidecar.content();
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
async fn a_ref_has_one_writer_and_is_free_when_its_stream_ends() {
    let sidecar = Sidecar::on_directory().await;
    let mut first = sidecar.write().await;
    first.exchange(stat("layer", 0, "")).await.unwrap();
    first.exchange(write(0, b"abc")).await.unwrap();
    let refused = sidecar.write().await.exchange(stat("layer", 0, "")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    // Another scope has refs of its own.
    let mut elsewhere = Write::open(sidecar.content(), &[("remora-prefix", "other/")]).await;
    assert_eq!(elsewhere.exchange(stat("layer", 0, "")).await.unwrap().offset, 0);

    // Half-closed: free before the client can know of it. No retry is needed here and below.
    first.close().await;
    let mut second = sidecar.write().await;
    assert_eq!(second.exchange(stat("layer", 0, "")).await.unwrap().offset, 3);
    // Refused: free before the status is sent.
    assert_eq!(second.exchange(write(2, b"x")).await.unwrap_err().code(), Code::OutOfRange);
    let mut third = sidecar.write().await;
    assert_eq!(third.exchange(stat("layer", 0, "")).await.unwrap().offset, 3);
    assert_eq!(third.exchange(commit("", 3, &Digest::of(b"other").to_string())).await.unwrap_err().code(), Code::FailedPrecondition);
    let mut fourth = sidecar.write().await;
    assert_eq!(fourth.exchange(stat("layer", 0, "")).await.unwrap().offset, 3);
    assert_eq!(fourth.exchange(commit("", 3, "")).await.unwrap().digest, Digest::of(b"abc").to_string());
    let mut fifth = sidecar.write().await;
    assert_eq!(fifth.exchange(stat("layer", 0, "")).await.unwrap().offset, 0);
}

#[tokio::test]
async fn wrong_offsets_sizes_and_digests_are_told_apart() {
    let sidecar = Sidecar::on_directory().await;
    let digest = Digest::of(b"abcdef").to_string();
    let cases = [
        (write(7, b"x"), Code::OutOfRange),
        (write(-1, b"x"), Code::OutOfRange),
        (write(2, b"x"), Code::OutOfRange),
        (commit("", 5, ""), Code::OutOfRange),
        (api::WriteContentRequest { total: 5, ..commit("", 6, "") }, Code::FailedPrecondition),
        (api::WriteContentRequest { total: 7, ..commit("", 6, &digest) }, Code::FailedPrecondition),
        (commit("", 6, &Digest::of(b"").to_string()), Code::FailedPrecondition),
        (commit("another", 6, ""), Code::InvalidArgument),
        (commit("", 6, "sha256:1"), Code::InvalidArgument),
        (api::WriteContentRequest { action: 9, ..commit("", 6, "") }, Code::InvalidArgument),
        (
            api::WriteContentRequest { labels: HashMap::from([("k".to_owned(), "v".repeat(4096))]), ..commit("", 6, "") },
            Code::InvalidArgument,
        ),
    ];
    for (request, code) in cases {
        let mut stream = sidecar.write().await;
        let opened = stream.exchange(stat("layer", 0, "")).await.unwrap();
        if opened.offset == 0 {
            stream.exchange(write(0, b"abcdef")).await.unwrap();
        }
        let refused = stream.exchange(request.clone()).await.unwrap_err();
        assert_eq!(refused.code(), code, "{request:?}: {refused}");
        // Nothing is lost, nothing is seen.
        assert_eq!(status(&sidecar, "layer").await.unwrap().offset, 6, "{request:?}");
        assert_eq!(info(&sidecar, &Digest::of(b"abcdef")).await.unwrap_err().code(), Code::NotFound);
    }
    let nameless = sidecar.write().await.exchange(stat("", 0, "")).await.unwrap_err();
    assert_eq!(nameless.code(), Code::InvalidArgument);
    let long = sidecar.write().await.exchange(stat(&"r".repeat(5000), 0, "")).await.unwrap_err();
    assert_eq!(long.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_write_at_offset_zero_begins_anew() {
    let sidecar = Sidecar::on_directory().await;
    let mut stream = sidecar.write().await;
    stream.exchange(stat("layer", 0, "")).await.unwrap();
    stream.exchange(write(0, b"wrong and long")).await.unwrap();
    let answer = stream.exchange(write(0, b"right")).await.unwrap();
    assert_eq!((answer.offset, answer.digest), (5, Digest::of(b"right").to_string()));
    stream.exchange(commit("", 5, "")).await.unwrap();
    assert_eq!(read_all(&sidecar, read(&Digest::of(b"right"), 0, 0)).await.unwrap().0, b"right");
    assert_eq!(info(&sidecar, &Digest::of(b"wrong and long")).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn what_exists_is_not_written_again() {
    let sidecar = Sidecar::on_directory().await;
    let digest = sidecar.store(b"layer").await.to_string();
    // Told with the first message, before a byte is sent.
    let told = sidecar.write().await.exchange(stat("new", 5, &digest)).await.unwrap_err();
    assert_eq!(told.code(), Code::AlreadyExists);
    assert_eq!(status(&sidecar, "new").await.unwrap_err().code(), Code::NotFound);
    // Told later, or found at the commit: the ingest is gone.
    for request in [stat("", 0, &digest), write_expecting(&digest), commit("", 3, &digest), commit("", 3, "")] {
        let mut stream = sidecar.write().await;
        stream.exchange(stat("late", 0, "")).await.unwrap();
        let data = if request.expected.is_empty() { b"layer".as_slice() } else { b"lay" };
        stream.exchange(write(0, data)).await.unwrap();
        let offset = i64::try_from(data.len()).unwrap();
        let request = api::WriteContentRequest { total: 0, offset, ..request };
        assert_eq!(stream.exchange(request.clone()).await.unwrap_err().code(), Code::AlreadyExists, "{request:?}");
        assert_eq!(status(&sidecar, "late").await.unwrap_err().code(), Code::NotFound);
    }
    assert_eq!(sidecar.spool(), Vec::<String>::new());
}

fn write_expecting(digest: &str) -> api::WriteContentRequest {
    api::WriteContentRequest { expected: digest.to_owned(), ..write(3, b"er") }
}

#[tokio::test]
async fn a_dropped_stream_is_resumed_at_its_offset_also_after_a_restart() {
    let data = Arc::new(tempfile::tempdir().unwrap());
    let blob = pattern(300_000);
    let (digest, total) = (Digest::of(&blob).to_string(), 300_000);
    let started = {
        let sidecar = Sidecar::on(Arc::clone(&data), None).await;
        let mut stream = sidecar.write().await;
        stream.exchange(stat("layer", total, &digest)).await.unwrap();
        stream.exchange(write(0, &blob[..100_000])).await.unwrap();
        drop(stream);
        let (mut stream, opened) = open_free(&sidecar, stat("layer", total, &digest)).await;
        assert_eq!((opened.offset, opened.digest), (100_000, Digest::of(&blob[..100_000]).to_string()));
        stream.exchange(write(100_000, &blob[100_000..200_000])).await.unwrap();
        status(&sidecar, "layer").await.unwrap()
    };
    let sidecar = Sidecar::on(data, None).await;
    let found = status(&sidecar, "layer").await.unwrap();
    assert_eq!((found.offset, found.total, &found.expected), (200_000, total, &digest));
    assert_eq!(found.started_at, started.started_at);
    let mut stream = sidecar.write().await;
    let opened = stream.exchange(stat("layer", total, &digest)).await.unwrap();
    assert_eq!((opened.offset, opened.total, opened.digest), (200_000, total, Digest::of(&blob[..200_000]).to_string()));
    stream.exchange(write(200_000, &blob[200_000..])).await.unwrap();
    // The digest was announced: the commit need not repeat it.
    stream.exchange(commit("", total, "")).await.unwrap();
    assert!(read_all(&sidecar, read(&digest, 0, 0)).await.unwrap().0 == blob);
    assert_eq!(sidecar.spool(), Vec::<String>::new());
}

#[tokio::test]
async fn a_file_that_became_a_blob_just_before_the_process_ended_is_not_written_again() {
    let data = Arc::new(tempfile::tempdir().unwrap());
    {
        let sidecar = Sidecar::on(Arc::clone(&data), None).await;
        let mut stream = sidecar.write().await;
        stream.exchange(stat("layer", 0, "")).await.unwrap();
        stream.exchange(write(0, b"blob")).await.unwrap();
        stream.close().await;
        // As a directory store does.
        let name = sidecar.spool().into_iter().find(|name| name.ends_with(".data")).unwrap();
        std::fs::hard_link(data.path().join("spool").join(name), data.path().join("blob")).unwrap();
    }
    let sidecar = Sidecar::on(Arc::clone(&data), None).await;
    let mut stream = sidecar.write().await;
    assert_eq!(stream.exchange(stat("layer", 0, "")).await.unwrap().offset, 4);
    assert_eq!(stream.exchange(write(4, b" and more")).await.unwrap().digest, Digest::of(b"blob and more").to_string());
    stream.exchange(write(0, b"x")).await.unwrap();
    assert_eq!(std::fs::read(data.path().join("blob")).unwrap(), b"blob");
    assert_eq!(sidecar.spool().len(), 2);
}

#[tokio::test]
async fn an_ingest_of_another_blob_begins_anew() {
    let sidecar = Sidecar::on_directory().await;
    for (total, expected) in [(10, ""), (11, ""), (0, "b"), (11, "c"), (0, "")] {
        let expected = if expected.is_empty() { String::new() } else { Digest::of(expected.as_bytes()).to_string() };
        let mut stream = sidecar.write().await;
        let opened = stream.exchange(stat("layer", total, &expected)).await.unwrap();
        // What is not said is no other; (0, "b") only adds the digest.
        let kept = (total, expected.is_empty()) == (0, true) || total == 0;
        assert_eq!(opened.offset, if kept { 4 } else { 0 }, "{total} {expected}");
        stream.exchange(write(0, b"four")).await.unwrap();
        stream.close().await;
    }
    assert_eq!(sidecar.spool().len(), 2, "the files of an ingest, none of those before");
}

#[tokio::test]
async fn an_abort_cancels_its_writer_and_harms_no_later_one() {
    let sidecar = Sidecar::on_directory().await;
    let mut aborted = sidecar.write().await;
    aborted.exchange(stat("layer", 0, "")).await.unwrap();
    aborted.exchange(write(0, b"old")).await.unwrap();
    sidecar.content().abort(api::AbortRequest { r#ref: "layer".to_owned() }).await.unwrap();
    assert_eq!(status(&sidecar, "layer").await.unwrap_err().code(), Code::NotFound);
    let mut later = sidecar.write().await;
    assert_eq!(later.exchange(stat("layer", 0, "")).await.unwrap().offset, 0);
    later.exchange(write(0, b"new!")).await.unwrap();
    assert_eq!(aborted.exchange(commit("", 3, "")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(sidecar.write().await.exchange(stat("layer", 0, "")).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(later.exchange(commit("", 4, "")).await.unwrap().digest, Digest::of(b"new!").to_string());
    assert_eq!(info(&sidecar, &Digest::of(b"old")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(sidecar.spool(), Vec::<String>::new());
}

#[tokio::test]
async fn ingests_are_bounded_and_listed() {
    let sidecar = Sidecar::on_directory().await;
    for index in 0..MAX_INGESTS {
        let mut stream = sidecar.write().await;
        stream.exchange(stat(&format!("ref-{index}"), 10, "")).await.unwrap();
        stream.close().await;
    }
    let refused = sidecar.write().await.exchange(stat("one more", 0, "")).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("max_open_ingests"), "{refused}");
    let list = |filters: &[&str]| {
        let filters = filters.iter().map(|&filter| filter.to_owned()).collect();
        let mut client = sidecar.content();
        async move {
            let found = client.list_statuses(api::ListStatusesRequest { filters }).await?.into_inner().statuses;
            Ok::<_, tonic::Status>(found.into_iter().map(|status| status.r#ref).collect::<Vec<_>>())
        }
    };
    assert_eq!(list(&[]).await.unwrap().len(), MAX_INGESTS);
    assert_eq!(list(&["ref~=/[01]$/"]).await.unwrap(), ["ref-0", "ref-1"]);
    assert_eq!(list(&["ref==ref-3", "ref==ref-5"]).await.unwrap(), ["ref-3", "ref-5"]);
    assert_eq!(list(&["offset==0"]).await.unwrap(), Vec::<String>::new());
    assert_eq!(list(&["ref~=["]).await.unwrap_err().code(), Code::InvalidArgument);
    sidecar.content().abort(api::AbortRequest { r#ref: "ref-0".to_owned() }).await.unwrap();
    sidecar.write().await.exchange(stat("one more", 0, "")).await.unwrap();
}

#[tokio::test]
async fn labels_change_as_the_mask_says() {
    let sidecar = Sidecar::on_directory().await;
    let digest = sidecar.store(b"layer").await;
    let labels =
        |pairs: &[(&str, &str)]| pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<HashMap<_, _>>();
    let update = |given: HashMap<String, String>, paths: &[&str]| {
        let update_mask = Some(prost_types::FieldMask { paths: paths.iter().map(|&path| path.to_owned()).collect() });
        let info = Some(api::Info { digest: digest.to_string(), labels: given, ..Default::default() });
        let mut client = sidecar.content();
        async move { client.update(api::UpdateRequest { info, update_mask }).await.map(|response| response.into_inner().info.unwrap().labels) }
    };
    let all = labels(&[("a", "1"), ("b", "2"), ("dotted.key/x", "3")]);
    assert_eq!(update(all.clone(), &[]).await.unwrap(), all);
    let changed = labels(&[("a", "9"), ("c", "4")]);
    let wanted = labels(&[("a", "9"), ("b", "2")]);
    assert_eq!(update(changed.clone(), &["labels.a", "labels.dotted.key/x"]).await.unwrap(), wanted);
    assert_eq!(update(labels(&[("b", "")]), &["labels.b"]).await.unwrap(), labels(&[("a", "9")]));
    assert_eq!(update(changed.clone(), &["labels"]).await.unwrap(), changed);
    assert_eq!(info(&sidecar, &digest).await.unwrap().labels, changed);
    for path in ["size", "digest", "label", ""] {
        assert_eq!(update(HashMap::new(), &["labels", path]).await.unwrap_err().code(), Code::InvalidArgument, "{path}");
    }
    assert_eq!(update(labels(&[("k", &"v".repeat(4096))]), &[]).await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(info(&sidecar, &digest).await.unwrap().labels, changed);
    // Changes at the same time: none is lost.
    let changes = (0..5).map(|index| update(labels(&[(&format!("k{index}"), "v")]), &[&format!("labels.k{index}")]));
    for change in futures_util::future::join_all(changes).await {
        change.unwrap();
    }
    assert_eq!(info(&sidecar, &digest).await.unwrap().labels.len(), 2 + 5);
}

#[tokio::test]
async fn a_listing_pages_and_filters() {
    let (sidecar, _) = Sidecar::on_minio("").await;
    let mut stored = Vec::new();
    for index in 0..120 {
        stored.push(sidecar.store(format!("blob {index}").as_bytes()).await.to_string());
    }
    stored.sort();
    let labels = HashMap::from([("kind".to_owned(), "odd one".to_owned())]);
    let info = Some(api::Info { digest: stored[110].clone(), labels, ..Default::default() });
    sidecar.content().update(api::UpdateRequest { info, update_mask: None }).await.unwrap();
    let list = |filters: &[&str]| {
        let filters = filters.iter().map(|&filter| filter.to_owned()).collect();
        let mut client = sidecar.content();
        async move {
            let (mut found, mut stream) = (Vec::new(), client.list(api::ListContentRequest { filters }).await?.into_inner());
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
    sidecar.content().delete(api::DeleteContentRequest { digest: stored[0].clone() }).await.unwrap();
    assert_eq!(list(&[]).await.unwrap(), stored[1..]);
}

#[tokio::test]
async fn the_scope_is_that_of_the_metadata() {
    let sidecar = Sidecar::on_directory().await;
    let layout = [("remora-bucket", "other"), ("remora-prefix", "team/"), ("remora-blobs-prefix", "b-"), ("remora-manifests-prefix", "m-")];
    let mut stream = Write::open(sidecar.content(), &layout).await;
    let request = api::WriteContentRequest { data: b"x".to_vec().into(), ..commit("layer", 0, "") };
    stream.exchange(request).await.unwrap();
    let digest = Digest::of(b"x").to_string();
    let folder = sidecar.data.path().join("store/other/team");
    assert!(files(&folder).contains(&format!("b-{digest}")), "{:?}", files(&folder));
    let request = api::InfoRequest { digest };
    assert!(sidecar.content().info(with(request.clone(), &layout)).await.is_ok());
    for (elsewhere, code) in [
        (vec![], Code::NotFound),
        (vec![("remora-bucket", "other")], Code::NotFound),
        (vec![("remora-bucket", "other"), ("remora-prefix", "team/")], Code::NotFound),
        (vec![("remora-bucket", "../other")], Code::InvalidArgument),
        (vec![("remora-bucket", "a..b")], Code::InvalidArgument),
        (vec![("remora-bucket", "other"), ("remora-bucket", "another")], Code::InvalidArgument),
        (vec![("remora-prefix", "x".repeat(401).leak() as &str)], Code::InvalidArgument),
    ] {
        assert_eq!(sidecar.content().info(with(request.clone(), &elsewhere)).await.unwrap_err().code(), code, "{elsewhere:?}");
    }

    let (sidecar, bucket) = Sidecar::on_minio("ci/").await;
    let digest = sidecar.store(b"x").await.to_string();
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
        let answer = sidecar.content().info(with(request.clone(), &metadata)).await;
        assert_eq!(answer.as_ref().map_or_else(tonic::Status::code, |_| Code::Ok), code, "{metadata:?}");
        if code == Code::PermissionDenied {
            assert!(answer.unwrap_err().message().contains("this remora serves bucket"), "{metadata:?}");
        }
    }
}
