//! Objects that arrive in parts.

use super::*;

#[tokio::test]
async fn parts_arrive_in_any_order_and_are_joined_in_the_right_one() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client("OPERATOR");
    let chunks = [content(5 << 20, 1), content(5 << 20, 2), content(1000, 3)];
    let blob = chunks.concat();
    let key = blob_key(&blob);
    let begin = || async {
        let upload = client.create_multipart_upload().bucket(BUCKET).key(&key).send().await.unwrap();
        upload.upload_id().unwrap().to_owned()
    };

    let id = begin().await;
    let parts = send_parts(&client, &key, &id, &chunks, &[2, 0, 1]).await;
    assert!(endpoint.store.keys().is_empty());
    let listed = client.list_parts().bucket(BUCKET).key(&key).upload_id(&id).send().await.unwrap();
    assert_eq!(listed.parts().iter().map(|part| part.size().unwrap()).collect::<Vec<_>>(), [5 << 20, 5 << 20, 1000]);
    // A wrong list of parts is refused, and the upload is still there.
    let short = refusal(complete(&client, &key, &id, parts[..2].to_vec()).await);
    assert!(short.contains("have the digest"), "{short}");
    let turned = parts.iter().rev().cloned().collect();
    assert!(refusal(complete(&client, &key, &id, turned).await).contains("rising order"));
    assert!(endpoint.store.keys().is_empty());
    complete(&client, &key, &id, parts.clone()).await.unwrap();
    assert_eq!(endpoint.store.bytes(&key).unwrap(), blob);
    assert!(refusal(complete(&client, &key, &id, parts).await).starts_with("NoSuchUpload"));

    let id = begin().await;
    let other = client.upload_part().bucket(BUCKET).key(blob_key(b"x")).upload_id(&id).part_number(1).send().await;
    assert!(refusal(other).starts_with("NoSuchUpload"));
    client.abort_multipart_upload().bucket(BUCKET).key(&key).upload_id(&id).send().await.unwrap();
    let late = client.upload_part().bucket(BUCKET).key(&key).upload_id(&id).part_number(1).send().await;
    assert!(refusal(late).starts_with("NoSuchUpload"));
}

#[tokio::test]
async fn a_copy_in_parts_onto_itself_is_a_touch() {
    let endpoint = Endpoint::start().await;
    let client = endpoint.client("OPERATOR");
    let key = blob_key(b"large");
    endpoint.store.plant(&key, Bytes::from_static(b"large"), OffsetDateTime::UNIX_EPOCH);
    touch_in_parts(&client, &key).await.unwrap();
    assert_eq!(endpoint.store.calls().touches, 1);
    assert_eq!(endpoint.store.bytes(&key).unwrap(), &b"large"[..]);
    let head = client.head_object().bucket(BUCKET).key(&key).send().await.unwrap();
    assert!(head.last_modified().unwrap().secs() > 0);
}

#[tokio::test]
async fn a_build_does_not_wait_for_a_copy_in_parts() {
    let endpoint = Endpoint::start().await;
    let key = blob_key(b"large");
    endpoint.store.plant(&key, Bytes::from_static(b"large"), OffsetDateTime::UNIX_EPOCH);
    let (build, _guard) = endpoint.build_client("build", Purpose::Export);
    touch_in_parts(&build, &key).await.unwrap();
    // In this test nobody runs the background tasks.
    assert_eq!(endpoint.store.calls().touches, 0);
    let head = build.head_object().bucket(BUCKET).key(&key).send().await.unwrap();
    assert!(head.last_modified().unwrap().secs() > 0);
}
