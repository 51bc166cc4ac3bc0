//! What the store asks of S3, call by call.

use std::borrow::Cow;
use std::sync::{Arc, Mutex};

use remora::store::{Checksums, Condition, Error, S3, S3Config, ServerSideEncryption, Store as _};
use s3s::dto;
use s3s::{S3Request, S3Response, S3Result, s3_error};

use super::{body, key};
use crate::support::fake_s3::FakeS3;
use crate::support::s3_config::{fake_config, minio_config};

#[tokio::test]
async fn checksums_of_both_kinds_are_accepted() {
    let config = minio_config();
    let store = S3::connect(S3Config { checksums: Checksums::WhenSupported, ..config }).await.unwrap();
    store.put(&key(), body(), Condition::Absent).await.unwrap();
    let id = store.begin_multipart(&key()).await.unwrap();
    let part = store.put_part(&key(), &id, 1, body()).await.unwrap();
    store.complete_multipart(&key(), &id, &[part], Condition::None).await.unwrap();
    assert_eq!(store.head(&key()).await.unwrap().size, 4);
}

/// An S3 that writes down what it was asked, and answers as it is told.
#[derive(Clone, Default)]
struct Scripted {
    asked: Arc<Mutex<Vec<String>>>,
    refuse_put: Option<s3s::S3ErrorCode>,
    size: i64,
}

impl Scripted {
    fn note(&self, call: &str, details: impl std::fmt::Debug) {
        self.asked.lock().unwrap().push(format!("{call} {details:?}"));
    }

    async fn store(&self, change: impl FnOnce(&mut S3Config)) -> (S3, FakeS3) {
        let server = FakeS3::serve(self.clone()).await;
        let mut config = fake_config(&server);
        change(&mut config);
        (S3::connect(config).await.unwrap(), server)
    }
}

fn text<T: Into<Cow<'static, str>>>(value: Option<T>) -> String {
    value.map(|value| value.into().into_owned()).unwrap_or_default()
}

#[async_trait::async_trait]
impl s3s::S3 for Scripted {
    async fn put_object(&self, request: S3Request<dto::PutObjectInput>) -> S3Result<S3Response<dto::PutObjectOutput>> {
        let input = request.input;
        let encryption = (text(input.server_side_encryption), text(input.ssekms_key_id));
        self.note("put", (encryption, text(input.storage_class), text(input.acl), text(input.expected_bucket_owner)));
        match &self.refuse_put {
            Some(code) => Err(s3s::S3Error::with_message(code.clone(), "as told")),
            None => Ok(S3Response::new(dto::PutObjectOutput { e_tag: Some(dto::ETag::Strong("tag".to_owned())), ..Default::default() })),
        }
    }

    async fn head_object(&self, _: S3Request<dto::HeadObjectInput>) -> S3Result<S3Response<dto::HeadObjectOutput>> {
        self.note("head", ());
        Ok(S3Response::new(dto::HeadObjectOutput {
            content_length: Some(self.size),
            e_tag: Some(dto::ETag::Strong("tag".to_owned())),
            last_modified: Some(std::time::SystemTime::now().into()),
            ..Default::default()
        }))
    }

    async fn copy_object(&self, _: S3Request<dto::CopyObjectInput>) -> S3Result<S3Response<dto::CopyObjectOutput>> {
        self.note("copy", ());
        Err(s3_error!(InvalidRequest, "the source is too large"))
    }

    async fn create_multipart_upload(
        &self,
        request: S3Request<dto::CreateMultipartUploadInput>,
    ) -> S3Result<S3Response<dto::CreateMultipartUploadOutput>> {
        let input = request.input;
        self.note("begin", (text(input.storage_class), text(input.acl), text(input.expected_bucket_owner)));
        Ok(S3Response::new(dto::CreateMultipartUploadOutput { upload_id: Some("upload".to_owned()), ..Default::default() }))
    }

    async fn upload_part_copy(&self, request: S3Request<dto::UploadPartCopyInput>) -> S3Result<S3Response<dto::UploadPartCopyOutput>> {
        let input = request.input;
        self.note("copy part", (input.part_number, text(input.copy_source_range)));
        Ok(S3Response::new(dto::UploadPartCopyOutput {
            copy_part_result: Some(dto::CopyPartResult {
                e_tag: Some(dto::ETag::Strong(format!("part-{}", input.part_number))),
                ..Default::default()
            }),
            ..Default::default()
        }))
    }

    async fn complete_multipart_upload(
        &self,
        request: S3Request<dto::CompleteMultipartUploadInput>,
    ) -> S3Result<S3Response<dto::CompleteMultipartUploadOutput>> {
        let parts = request.input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
        self.note("complete", parts.iter().map(|part| part.part_number.unwrap_or_default()).collect::<Vec<_>>());
        Ok(S3Response::new(dto::CompleteMultipartUploadOutput { e_tag: Some(dto::ETag::Strong("tag".to_owned())), ..Default::default() }))
    }
}

#[tokio::test]
async fn new_objects_get_what_the_operator_asked_for() {
    let s3 = Scripted::default();
    let (store, _server) = s3
        .store(|config| {
            config.sse = Some(ServerSideEncryption::Kms(Some("alias/cache".to_owned())));
            config.storage_class = Some("STANDARD_IA".to_owned());
            config.acl = Some("bucket-owner-full-control".to_owned());
            config.expected_bucket_owner = Some("123456789012".to_owned());
        })
        .await;
    store.put(&key(), body(), Condition::None).await.unwrap();
    store.begin_multipart(&key()).await.unwrap();
    assert_eq!(
        *s3.asked.lock().unwrap(),
        [
            r#"put (("aws:kms", "alias/cache"), "STANDARD_IA", "bucket-owner-full-control", "123456789012")"#,
            r#"begin ("STANDARD_IA", "bucket-owner-full-control", "123456789012")"#,
        ]
    );
}

#[tokio::test]
async fn an_object_too_large_for_one_copy_is_touched_in_parts() {
    let s3 = Scripted { size: (5 << 30) + 1, ..Default::default() };
    let (store, _server) = s3.store(|_| {}).await;
    store.touch(&key()).await.unwrap();
    let mut asked = s3.asked.lock().unwrap().clone();
    asked[3..9].sort();
    assert_eq!(
        asked,
        [
            "copy ()",
            "head ()",
            r#"begin ("", "", "")"#,
            r#"copy part (1, "bytes=0-1073741823")"#,
            r#"copy part (2, "bytes=1073741824-2147483647")"#,
            r#"copy part (3, "bytes=2147483648-3221225471")"#,
            r#"copy part (4, "bytes=3221225472-4294967295")"#,
            r#"copy part (5, "bytes=4294967296-5368709119")"#,
            r#"copy part (6, "bytes=5368709120-5368709120")"#,
            "complete [1, 2, 3, 4, 5, 6]",
        ]
    );
}

#[tokio::test]
async fn a_copy_that_is_refused_for_another_reason_stays_refused() {
    let s3 = Scripted { size: 10, ..Default::default() };
    let (store, _server) = s3.store(|_| {}).await;
    let outcome = store.touch(&key()).await;
    assert!(matches!(&outcome, Err(Error::Invalid(why)) if why.contains("too large")), "{outcome:?}");
}

#[tokio::test]
async fn a_slow_down_is_exhausted_and_left_to_the_guard() {
    let s3 = Scripted { refuse_put: Some(s3s::S3ErrorCode::SlowDown), ..Default::default() };
    let (store, _server) = s3.store(|_| {}).await;
    let outcome = store.put(&key(), body(), Condition::None).await;
    assert!(matches!(&outcome, Err(Error::Exhausted(why)) if why.contains("SlowDown: as told")), "{outcome:?}");
    assert_eq!(s3.asked.lock().unwrap().len(), 1);
}

#[tokio::test]
async fn a_conflict_of_conditional_writes_is_a_precondition() {
    let s3 = Scripted { refuse_put: Some(s3s::S3ErrorCode::ConditionalRequestConflict), ..Default::default() };
    let (store, _server) = s3.store(|_| {}).await;
    let outcome = store.put(&key(), body(), Condition::Absent).await;
    assert!(matches!(outcome, Err(Error::Precondition(_))), "{outcome:?}");
}
