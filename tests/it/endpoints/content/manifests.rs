//! `remora.cache.v1.Manifests`, call by call.

use remora::proto::cache as api;
use remora::types::Digest;
use serde_json::json;
use tonic::Code;

use super::endpoint::{Endpoint, MAX_MANIFEST_BYTES, with};

fn config(blob: &Digest) -> Vec<u8> {
    let annotations = json!({ "mediaType": "m", "diffID": blob.to_string(), "size": 5, "createdAt": "2024-01-01T00:00:00Z", "new": [1] });
    let layer = json!({ "blob": blob.to_string(), "parent": -1, "annotations": annotations });
    json!({ "layers": [layer], "records": [{ "layers": [{ "layer": 0 }], "digest": blob.to_string() }], "unknown": { "a": null } })
        .to_string()
        .into_bytes()
}

fn put(name: &str, document: impl Into<Vec<u8>>) -> api::PutRequest {
    api::PutRequest { name: name.to_owned(), document: document.into().into(), ..Default::default() }
}

fn get(name: &str) -> api::GetRequest {
    api::GetRequest { name: name.to_owned() }
}

async fn put_code(endpoint: &Endpoint, request: api::PutRequest) -> Code {
    endpoint.manifests().put(request).await.map_or_else(|status| status.code(), |_| Code::Ok)
}

/// A document without the versions of the blobs, which remora adds.
fn as_sent(document: &[u8]) -> serde_json::Value {
    let mut document: serde_json::Value = serde_json::from_slice(document).unwrap();
    for layer in document["layers"].as_array_mut().unwrap() {
        let annotations = layer["annotations"].as_object_mut().unwrap();
        annotations.retain(|name, _| !name.starts_with("remora"));
    }
    document
}

#[tokio::test]
async fn a_manifest_is_published_read_listed_and_deleted() {
    let directory = Endpoint::on_directory().await;
    let (minio, _) = Endpoint::on_minio("ci/").await;
    for endpoint in [directory, minio] {
        let document = config(&endpoint.store(b"layer").await);
        let mut client = endpoint.manifests();
        let etag = client.put(put("team/app", document.clone())).await.unwrap().into_inner().etag;
        let got = client.get(get("team/app")).await.unwrap().into_inner();
        let info = got.info.unwrap();
        assert_eq!(as_sent(&got.document), as_sent(&document));
        assert_eq!((&*info.name, info.size, &info.etag), ("team/app", i64::try_from(got.document.len()).unwrap(), &etag));
        for name in ["a", "b", "c"] {
            client.put(put(name, document.clone())).await.unwrap();
        }
        let mut list = async |after: &str, limit| {
            let listed = client.list(api::ListRequest { after: after.to_owned(), limit }).await.unwrap().into_inner();
            (listed.manifests.into_iter().map(|info| info.name).collect::<Vec<_>>().join(" "), listed.more)
        };
        assert_eq!(list("", 0).await, ("a b c team/app".to_owned(), false));
        assert_eq!(list("", 2).await, ("a b".to_owned(), true));
        assert_eq!(list("b", 2000).await, ("c team/app".to_owned(), false));
        assert_eq!(list("z", 1).await, (String::new(), false));
        client.delete(api::DeleteRequest { name: "a".to_owned() }).await.unwrap();
        assert_eq!(client.get(get("a")).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(client.delete(api::DeleteRequest { name: "a".to_owned() }).await.unwrap_err().code(), Code::NotFound);
    }
}

#[tokio::test]
async fn bad_documents_and_names_are_told_apart() {
    let endpoint = Endpoint::on_directory().await;
    let document = config(&endpoint.store(b"layer").await);
    let missing = config(&Digest::of(b"not stored"));
    assert_eq!(put_code(&endpoint, put("app", document.clone())).await, Code::Ok);
    let cases = [
        (put("app", ""), Code::InvalidArgument),
        (put("app", "{"), Code::InvalidArgument),
        (put("app", "[]"), Code::InvalidArgument),
        (put("app", r#"{"layers":[{"blob":"sha256:../x","parent":-1}]}"#), Code::InvalidArgument),
        (put("app", missing), Code::FailedPrecondition),
        (put("", document.clone()), Code::InvalidArgument),
        (put("../app", document.clone()), Code::InvalidArgument),
        (put("a/./b", document.clone()), Code::InvalidArgument),
        (api::PutRequest { if_match: "x".to_owned(), if_absent: true, ..put("app", document.clone()) }, Code::InvalidArgument),
        (api::PutRequest { if_match: "x".to_owned(), ..put("app", document.clone()) }, Code::Aborted),
        (api::PutRequest { if_absent: true, ..put("app", document.clone()) }, Code::Aborted),
        (api::PutRequest { if_match: "x".to_owned(), ..put("none", document.clone()) }, Code::Aborted),
    ];
    for (request, code) in cases {
        let answer = endpoint.manifests().put(request.clone()).await.unwrap_err();
        assert_eq!(answer.code(), code, "{} {}: {answer}", request.name, String::from_utf8_lossy(&request.document));
        let stored = endpoint.manifests().get(get("app")).await.unwrap().into_inner().document;
        assert_eq!(as_sent(&stored), as_sent(&document));
    }
    assert_eq!(endpoint.manifests().get(get("none")).await.unwrap_err().code(), Code::NotFound);
    let negative = api::ListRequest { limit: -1, ..Default::default() };
    assert_eq!(endpoint.manifests().list(negative).await.unwrap_err().code(), Code::InvalidArgument);
    // Somebody else's object under a manifest's name.
    std::fs::write(endpoint.data.path().join("store/remora/manifests/app"), "not json").unwrap();
    assert_eq!(endpoint.manifests().get(get("app")).await.unwrap_err().code(), Code::DataLoss);
    let denied = with(get("app"), &[("remora-bucket", "no_/such")]);
    assert_eq!(endpoint.manifests().get(denied).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_document_above_the_bound_is_refused_whatever_its_size() {
    let endpoint = Endpoint::on_directory().await;
    let padded = |len: usize| format!(r#"{{"x":"{}"}}"#, "x".repeat(len - 8));
    let bound = usize::try_from(MAX_MANIFEST_BYTES).unwrap();
    assert_eq!(put_code(&endpoint, put("app", padded(bound))).await, Code::Ok);
    for len in [bound + 1, 50 << 20] {
        let refused = endpoint.manifests().put(put("big", padded(len))).await.unwrap_err();
        assert_eq!(refused.code(), Code::ResourceExhausted, "{len}: {refused}");
    }
    assert_eq!(endpoint.manifests().get(get("big")).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(endpoint.manifests().get(get("app")).await.unwrap().into_inner().document.len(), bound);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_racing_conditional_puts_one_wins() {
    let directory = Endpoint::on_directory().await;
    let (minio, _) = Endpoint::on_minio("").await;
    for endpoint in [directory, minio] {
        let document = config(&endpoint.store(b"layer").await);
        let mut etag = None;
        for round in 0..3 {
            let request = match &etag {
                None => api::PutRequest { if_absent: true, ..put("app", document.clone()) },
                Some(etag) => api::PutRequest { if_match: String::clone(etag), ..put("app", document.clone()) },
            };
            let racers = (0..8).map(|racer| {
                let mut request = request.clone();
                // The documents differ: equal ones may have equal ETags.
                request.document = [&document[..], " ".repeat(1 + round * 8 + racer).as_bytes()].concat().into();
                let mut client = endpoint.manifests();
                async move { client.put(request).await }
            });
            let mut won = Vec::new();
            for answer in futures_util::future::join_all(racers).await {
                match answer {
                    Ok(answer) => won.push(answer.into_inner().etag),
                    Err(status) => assert_eq!(status.code(), Code::Aborted, "{status}"),
                }
            }
            assert_eq!(won.len(), 1, "round {round}");
            etag = won.pop();
            assert_eq!(Some(endpoint.manifests().get(get("app")).await.unwrap().into_inner().info.unwrap().etag), etag);
        }
    }
}
