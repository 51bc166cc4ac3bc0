//! The contract of `remora::store::Store`: one suite, run on every backend, on MinIO as it is guarded in use.
//!
//! `directory.rs` and `s3/` test what only one of them has.

mod conditions;
mod listing;
mod multipart;
mod objects;

use std::any::Any;
use std::io::Write as _;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::TryStreamExt as _;
use remora::metrics::Metrics;
use remora::shutdown::Shutdown;
use remora::store::{Body, Condition, Directory, Error, Guarded, Object, Policy, S3, Store};
use remora::types::{ETag, Key};
use tempfile::{NamedTempFile, TempDir};

use self::conditions::*;
use self::listing::*;
use self::multipart::*;
use self::objects::*;
use crate::support::fake_s3::FakeS3;
use crate::support::s3_config::{fake_config, minio_config};

/// A store of a fresh bucket, and what must live as long.
struct Backend {
    store: Arc<dyn Store>,
    _kept: Box<dyn Any + Send>,
}

impl Backend {
    async fn directory() -> Self {
        let root = TempDir::new().unwrap();
        let store = Arc::new(Directory::new(root.path(), &"bucket".parse().unwrap()));
        Self { store, _kept: Box::new(root) }
    }

    async fn minio() -> Self {
        let store = Arc::new(S3::connect(minio_config()).await.unwrap());
        let policy = Policy::default();
        let shutdown = Shutdown::default();
        let metrics = Metrics::default().store(store.url());
        Self { store: Arc::new(Guarded::new(store, policy, metrics, shutdown)), _kept: Box::new(()) }
    }

    async fn s3s_fs() -> Self {
        let server = FakeS3::start().await;
        Self { store: Arc::new(S3::connect(fake_config(&server)).await.unwrap()), _kept: Box::new(server) }
    }
}

macro_rules! suite {
    ($suite:ident on $($backend:ident),+ : $cases:tt) => {
        mod $suite {
            $(mod $backend { suite!(@cases $backend $cases); })+
        }
    };
    (@cases $backend:ident { $($case:ident),* $(,)? }) => {
        $(
            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $case() {
                let backend = crate::store::contract::Backend::$backend().await;
                crate::store::contract::$case(Arc::clone(&backend.store)).await;
            }
        )*
        use std::sync::Arc;
    };
}

suite!(everywhere on directory, minio, s3s_fs: {
    an_object_reads_back_as_it_was_stored,
    an_empty_object_has_no_range,
    a_missing_object_is_not_found,
    ranges_are_cut_and_checked,
    a_put_replaces_the_whole_object,
    readers_see_the_old_object_or_the_new_one,
    a_put_is_conditional,
    files_are_stored_whole_and_in_part,
    a_file_that_is_too_short_is_invalid,
    touch_keeps_the_bytes_and_sets_the_time,
    delete_is_idempotent,
    parts_join_in_the_order_given,
    a_part_sent_again_replaces_the_first,
    an_aborted_upload_leaves_nothing,
    completion_is_conditional,
    a_check_leaves_nothing_behind,
    a_body_may_be_dropped_early,
});

// s3s-fs 0.14 lacks what these cases test: GET ignores If-Match; a conditional write looks first and
// writes later; an upload that is not there is AccessDenied instead of NoSuchUpload; any part number is
// taken; a list has no ETags; keys are paths, so that a folder's HEAD is a 500 and "app" and "app/next"
// cannot both be stored.
suite!(beyond_s3s_fs on directory, minio: {
    a_folder_is_not_an_object,
    a_name_and_one_below_it_are_two_objects,
    a_get_can_name_its_version,
    of_concurrent_creators_one_wins,
    no_conditional_update_is_lost,
    an_unknown_upload_is_not_found,
    bad_parts_are_refused,
    lists_in_key_order_by_prefix_and_pages,
});

// MinIO stores "app" and "app/next" but does not list the second.
suite!(beyond_minio on directory: {
    lists_names_below_names,
});

type Shared = Arc<dyn Store>;

fn key(leaf: &str) -> Key {
    Key::new("contract/", leaf)
}

fn body(text: &str) -> Body {
    Body::Bytes(Bytes::copy_from_slice(text.as_bytes()))
}

/// Bytes that differ everywhere, so that a shift shows.
fn pattern(len: usize, seed: u32) -> Vec<u8> {
    (0..).map(|at: u32| at.wrapping_mul(2_654_435_761).wrapping_add(seed).to_be_bytes()[0]).take(len).collect()
}

fn file(bytes: &[u8]) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(bytes).unwrap();
    file
}

async fn put(store: &Shared, key: &Key, text: &str) -> ETag {
    store.put(key, body(text), Condition::None).await.unwrap()
}

async fn bytes(object: Object) -> Vec<u8> {
    object.body.try_collect::<Vec<Bytes>>().await.unwrap().concat()
}

async fn read(store: &Shared, key: &Key) -> Vec<u8> {
    bytes(store.get(key, None, None).await.unwrap()).await
}

async fn keys(store: &Shared) -> Vec<String> {
    store.list("", None, 1000).await.unwrap().entries.into_iter().map(|(key, _)| key).collect()
}

#[track_caller]
fn assert_not_found<T>(result: Result<T, Error>) {
    let error = result.err();
    assert!(matches!(error, Some(Error::NotFound(_))), "{error:?}");
}

#[track_caller]
fn assert_precondition<T>(result: Result<T, Error>) {
    let error = result.err();
    assert!(matches!(error, Some(Error::Precondition(_))), "{error:?}");
}

#[track_caller]
fn assert_invalid<T>(result: Result<T, Error>) {
    let error = result.err();
    assert!(matches!(error, Some(Error::Invalid(_))), "{error:?}");
}
