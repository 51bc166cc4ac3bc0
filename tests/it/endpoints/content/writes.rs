//! `containerd.services.content.v1.Content`: Write, and what becomes of ingests.

use std::collections::HashMap;
use std::sync::Arc;

use remora::proto::content as api;
use remora::types::Digest;
use tonic::Code;

use super::endpoint::{Endpoint, MAX_INGESTS, Write, commit, stat, write};
use super::requests::{info, open_free, pattern, read, read_all, status};

#[tokio::test]
async fn a_ref_has_one_writer_and_is_free_when_its_stream_ends() {
    let endpoint = Endpoint::on_directory().await;
    let mut first = endpoint.write().await;
    first.exchange(stat("layer", 0, "")).await.unwrap();
    first.exchange(write(0, b"abc")).await.unwrap();
    let refused = endpoint.write().await.exchange(stat("layer", 0, "")).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
    // Another scope has refs of its own.
    let mut elsewhere = Write::open(endpoint.content(), &[("remora-prefix", "other/")]).await;
    assert_eq!(elsewhere.exchange(stat("layer", 0, "")).await.unwrap().offset, 0);

    // After a half-close the ref is free before the client can know of it. No retry is needed here and below.
    first.close().await;
    let mut second = endpoint.write().await;
    assert_eq!(second.exchange(stat("layer", 0, "")).await.unwrap().offset, 3);
    // After a refusal the ref is free before the status is sent.
    assert_eq!(second.exchange(write(2, b"x")).await.unwrap_err().code(), Code::OutOfRange);
    let mut third = endpoint.write().await;
    assert_eq!(third.exchange(stat("layer", 0, "")).await.unwrap().offset, 3);
    assert_eq!(third.exchange(commit("", 3, &Digest::of(b"other").to_string())).await.unwrap_err().code(), Code::FailedPrecondition);
    let mut fourth = endpoint.write().await;
    assert_eq!(fourth.exchange(stat("layer", 0, "")).await.unwrap().offset, 3);
    assert_eq!(fourth.exchange(commit("", 3, "")).await.unwrap().digest, Digest::of(b"abc").to_string());
    let mut fifth = endpoint.write().await;
    assert_eq!(fifth.exchange(stat("layer", 0, "")).await.unwrap().offset, 0);
}

#[tokio::test]
async fn wrong_offsets_sizes_and_digests_are_told_apart() {
    let endpoint = Endpoint::on_directory().await;
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
        let mut stream = endpoint.write().await;
        let opened = stream.exchange(stat("layer", 0, "")).await.unwrap();
        if opened.offset == 0 {
            stream.exchange(write(0, b"abcdef")).await.unwrap();
        }
        let refused = stream.exchange(request.clone()).await.unwrap_err();
        assert_eq!(refused.code(), code, "{request:?}: {refused}");
        // Nothing of the ingest is lost, and no blob is visible.
        assert_eq!(status(&endpoint, "layer").await.unwrap().offset, 6, "{request:?}");
        assert_eq!(info(&endpoint, &Digest::of(b"abcdef")).await.unwrap_err().code(), Code::NotFound);
    }
    let nameless = endpoint.write().await.exchange(stat("", 0, "")).await.unwrap_err();
    assert_eq!(nameless.code(), Code::InvalidArgument);
    let long = endpoint.write().await.exchange(stat(&"r".repeat(5000), 0, "")).await.unwrap_err();
    assert_eq!(long.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_write_at_offset_zero_begins_anew() {
    let endpoint = Endpoint::on_directory().await;
    let mut stream = endpoint.write().await;
    stream.exchange(stat("layer", 0, "")).await.unwrap();
    stream.exchange(write(0, b"wrong and long")).await.unwrap();
    let answer = stream.exchange(write(0, b"right")).await.unwrap();
    assert_eq!((answer.offset, answer.digest), (5, Digest::of(b"right").to_string()));
    stream.exchange(commit("", 5, "")).await.unwrap();
    assert_eq!(read_all(&endpoint, read(&Digest::of(b"right"), 0, 0)).await.unwrap().0, b"right");
    assert_eq!(info(&endpoint, &Digest::of(b"wrong and long")).await.unwrap_err().code(), Code::NotFound);
}

#[tokio::test]
async fn a_blob_that_exists_is_not_written_again() {
    let endpoint = Endpoint::on_directory().await;
    let digest = endpoint.store(b"layer").await.to_string();
    // The client learns it with the first message, before it sends a byte.
    let told = endpoint.write().await.exchange(stat("new", 5, &digest)).await.unwrap_err();
    assert_eq!(told.code(), Code::AlreadyExists);
    assert_eq!(status(&endpoint, "new").await.unwrap_err().code(), Code::NotFound);
    // It learns it later, or at the commit: the ingest is gone.
    for request in [stat("", 0, &digest), write_expecting(&digest), commit("", 3, &digest), commit("", 3, "")] {
        let mut stream = endpoint.write().await;
        stream.exchange(stat("late", 0, "")).await.unwrap();
        let data = if request.expected.is_empty() { b"layer".as_slice() } else { b"lay" };
        stream.exchange(write(0, data)).await.unwrap();
        let offset = i64::try_from(data.len()).unwrap();
        let request = api::WriteContentRequest { total: 0, offset, ..request };
        assert_eq!(stream.exchange(request.clone()).await.unwrap_err().code(), Code::AlreadyExists, "{request:?}");
        assert_eq!(status(&endpoint, "late").await.unwrap_err().code(), Code::NotFound);
    }
    assert_eq!(endpoint.spool(), Vec::<String>::new());
}

fn write_expecting(digest: &str) -> api::WriteContentRequest {
    api::WriteContentRequest { expected: digest.to_owned(), ..write(3, b"er") }
}

#[tokio::test]
async fn a_dropped_stream_is_resumed_at_its_offset_also_after_a_restart() {
    let data = Arc::new(tempfile::tempdir().unwrap());
    let blob = pattern(300_000);
    let digest = Digest::of(&blob).to_string();
    let total = 300_000;
    let started = {
        let endpoint = Endpoint::on(Arc::clone(&data), None).await;
        let mut stream = endpoint.write().await;
        stream.exchange(stat("layer", total, &digest)).await.unwrap();
        stream.exchange(write(0, &blob[..100_000])).await.unwrap();
        drop(stream);
        let (mut stream, opened) = open_free(&endpoint, stat("layer", total, &digest)).await;
        assert_eq!((opened.offset, opened.digest), (100_000, Digest::of(&blob[..100_000]).to_string()));
        stream.exchange(write(100_000, &blob[100_000..200_000])).await.unwrap();
        status(&endpoint, "layer").await.unwrap()
    };
    let endpoint = Endpoint::on(data, None).await;
    let found = status(&endpoint, "layer").await.unwrap();
    assert_eq!((found.offset, found.total, &found.expected), (200_000, total, &digest));
    assert_eq!(found.started_at, started.started_at);
    let mut stream = endpoint.write().await;
    let opened = stream.exchange(stat("layer", total, &digest)).await.unwrap();
    assert_eq!((opened.offset, opened.total, opened.digest), (200_000, total, Digest::of(&blob[..200_000]).to_string()));
    stream.exchange(write(200_000, &blob[200_000..])).await.unwrap();
    // The digest was announced: the commit need not repeat it.
    stream.exchange(commit("", total, "")).await.unwrap();
    assert!(read_all(&endpoint, read(&digest, 0, 0)).await.unwrap().0 == blob);
    assert_eq!(endpoint.spool(), Vec::<String>::new());
}

#[tokio::test]
async fn a_file_that_became_a_blob_just_before_the_process_ended_is_not_written_again() {
    let data = Arc::new(tempfile::tempdir().unwrap());
    {
        let endpoint = Endpoint::on(Arc::clone(&data), None).await;
        let mut stream = endpoint.write().await;
        stream.exchange(stat("layer", 0, "")).await.unwrap();
        stream.exchange(write(0, b"blob")).await.unwrap();
        stream.close().await;
        // A directory store leaves this when it is killed at that moment.
        let name = endpoint.spool().into_iter().find(|name| name.ends_with(".data")).unwrap();
        std::fs::hard_link(data.path().join("spool").join(name), data.path().join("blob")).unwrap();
    }
    let endpoint = Endpoint::on(Arc::clone(&data), None).await;
    let mut stream = endpoint.write().await;
    assert_eq!(stream.exchange(stat("layer", 0, "")).await.unwrap().offset, 4);
    assert_eq!(stream.exchange(write(4, b" and more")).await.unwrap().digest, Digest::of(b"blob and more").to_string());
    stream.exchange(write(0, b"x")).await.unwrap();
    assert_eq!(std::fs::read(data.path().join("blob")).unwrap(), b"blob");
    assert_eq!(endpoint.spool().len(), 2);
}

#[tokio::test]
async fn an_ingest_of_another_blob_begins_anew() {
    let endpoint = Endpoint::on_directory().await;
    for (total, expected) in [(10, ""), (11, ""), (0, "b"), (11, "c"), (0, "")] {
        let expected = if expected.is_empty() { String::new() } else { Digest::of(expected.as_bytes()).to_string() };
        let mut stream = endpoint.write().await;
        let opened = stream.exchange(stat("layer", total, &expected)).await.unwrap();
        // A field that is not set contradicts nothing: (0, "b") only adds the digest.
        let kept = (total, expected.is_empty()) == (0, true) || total == 0;
        assert_eq!(opened.offset, if kept { 4 } else { 0 }, "{total} {expected}");
        stream.exchange(write(0, b"four")).await.unwrap();
        stream.close().await;
    }
    assert_eq!(endpoint.spool().len(), 2, "the files of an ingest, none of those before");
}

#[tokio::test]
async fn an_abort_cancels_its_writer_and_harms_no_later_one() {
    let endpoint = Endpoint::on_directory().await;
    let mut aborted = endpoint.write().await;
    aborted.exchange(stat("layer", 0, "")).await.unwrap();
    aborted.exchange(write(0, b"old")).await.unwrap();
    endpoint.content().abort(api::AbortRequest { r#ref: "layer".to_owned() }).await.unwrap();
    assert_eq!(status(&endpoint, "layer").await.unwrap_err().code(), Code::NotFound);
    let mut later = endpoint.write().await;
    assert_eq!(later.exchange(stat("layer", 0, "")).await.unwrap().offset, 0);
    later.exchange(write(0, b"new!")).await.unwrap();
    assert_eq!(aborted.exchange(commit("", 3, "")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(endpoint.write().await.exchange(stat("layer", 0, "")).await.unwrap_err().code(), Code::Unavailable);
    assert_eq!(later.exchange(commit("", 4, "")).await.unwrap().digest, Digest::of(b"new!").to_string());
    assert_eq!(info(&endpoint, &Digest::of(b"old")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(endpoint.spool(), Vec::<String>::new());
}

#[tokio::test]
async fn ingests_are_bounded_and_listed() {
    let endpoint = Endpoint::on_directory().await;
    for index in 0..MAX_INGESTS {
        let mut stream = endpoint.write().await;
        stream.exchange(stat(&format!("ref-{index}"), 10, "")).await.unwrap();
        stream.close().await;
    }
    let refused = endpoint.write().await.exchange(stat("one more", 0, "")).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("max_open_ingests"), "{refused}");
    let list = |filters: &[&str]| {
        let filters = filters.iter().map(|&filter| filter.to_owned()).collect();
        let mut client = endpoint.content();
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
    endpoint.content().abort(api::AbortRequest { r#ref: "ref-0".to_owned() }).await.unwrap();
    endpoint.write().await.exchange(stat("one more", 0, "")).await.unwrap();
}
