//! Ingests whose first parts are in the store before the last byte has come.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use remora::cache::{Error, Ingest};
use remora::types::{Digest, Documents, Grant, Rights};

use super::{content, roomy};
use crate::support::cache::{operator, scope};

/// The size of the parts in which remora sends an ingest.
const OWN_PART: usize = 8 << 20;

#[tokio::test]
async fn an_ingest_is_sent_while_it_is_written() {
    let fixture = roomy().await;
    let bytes = content(OWN_PART * 4 + 9);
    let digest = Digest::of(&bytes);
    let mut ingest = fixture.cache.ingests().open_writer(&fixture.grant, "ref", bytes.len() as u64, Some(digest)).await.unwrap();
    ingest.write(0, Bytes::copy_from_slice(&bytes[..OWN_PART * 3])).await.unwrap();
    fixture.store.wait_for_parts(3).await;
    assert!(fixture.store.keys().is_empty());

    // The next writer begins a new upload in the store, with what the spool has.
    drop(ingest);
    fixture.store.wait_for_no_upload().await;
    fixture.store.refuse_parts(&[2]);
    let mut ingest = fixture.cache.ingests().open_writer(&fixture.grant, "ref", bytes.len() as u64, Some(digest)).await.unwrap();
    assert_eq!(ingest.status().unwrap().offset, (OWN_PART * 3) as u64);
    ingest.write((OWN_PART * 3) as u64, Bytes::copy_from_slice(&bytes[OWN_PART * 3..])).await.unwrap();
    fixture.store.wait_for_parts(3).await;
    fixture.store.refuse_parts(&[]);
    ingest.commit(Some(bytes.len() as u64), Some(digest), BTreeMap::new()).await.unwrap();
    assert!(fixture.has(&bytes));
    assert_eq!((fixture.store.open_uploads(), fixture.store.begun_uploads(), fixture.spool_files()), (0, 2, 0));
}

fn session() -> Grant {
    Grant::builder(scope(), Rights::EXPORT).documents(Arc::new(Documents::new(32 << 20))).build()
}

/// Writes as containerd's client does, in messages that do not end where parts do.
async fn write_all(ingest: &mut Ingest, bytes: &[u8]) -> Result<(), Error> {
    for message in bytes.chunks(1_000_000) {
        ingest.write(ingest.status()?.offset, Bytes::copy_from_slice(message)).await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_large_blob_of_a_session_goes_into_the_store_and_not_through_the_spool() {
    let fixture = roomy().await;
    let session = session();
    let bytes = content(OWN_PART * 4 + 9);
    let digest = Digest::of(&bytes);
    let mut ingest = fixture.cache.ingests().open_writer(&session, "ref", bytes.len() as u64, Some(digest)).await.unwrap();
    write_all(&mut ingest, &bytes[..OWN_PART * 3 + 5]).await.unwrap();
    fixture.store.wait_for_parts(3).await;
    assert!(fixture.store.keys().is_empty());
    let spool = std::fs::read_dir(fixture.dir.path().join("spool")).unwrap();
    let of_data = |entry: &std::fs::DirEntry| entry.path().extension().is_some_and(|extension| extension == "data");
    assert_eq!(spool.map(Result::unwrap).filter(of_data).map(|entry| entry.metadata().unwrap().len()).sum::<u64>(), 0);

    // When the client starts again, so does the upload.
    ingest.restart().await.unwrap();
    fixture.store.wait_for_no_upload().await;
    write_all(&mut ingest, &bytes).await.unwrap();
    let gap = ingest.write(7, Bytes::from_static(b"gap")).await;
    assert!(matches!(gap, Err(Error::OutOfRange(_))), "{gap:?}");
    let committed = ingest.commit(Some(bytes.len() as u64), Some(digest), BTreeMap::new()).await.unwrap();
    assert_eq!(committed, (digest, bytes.len() as u64));
    assert!(fixture.has(&bytes));
    assert_eq!((fixture.store.open_uploads(), fixture.store.begun_uploads(), fixture.spool_files()), (0, 2, 0));
}

#[tokio::test]
async fn a_large_blob_of_a_session_that_is_not_what_was_announced_leaves_nothing() {
    let fixture = roomy().await;
    let session = session();
    let bytes = content(OWN_PART * 3);
    let len = (OWN_PART * 3) as u64;
    let (digest, other) = (Digest::of(&bytes), Digest::of(b"other"));
    for (total, announced, committed) in [(len, other, other), (len + 1, digest, digest), (len - 1, digest, digest), (len, digest, other)] {
        let mut ingest = fixture.cache.ingests().open_writer(&session, "ref", total, Some(announced)).await.unwrap();
        let written = write_all(&mut ingest, &bytes).await;
        let ended = match written {
            Ok(()) => ingest.commit(Some(total), Some(committed), BTreeMap::new()).await.map(|_| ()),
            Err(error) => {
                ingest.close().await;
                Err(error)
            }
        };
        assert!(matches!(ended, Err(Error::Precondition(_))), "{total} {announced} {committed}: {ended:?}");
        fixture.store.wait_for_no_upload().await;
        assert!(fixture.store.keys().is_empty());
        assert_eq!(fixture.spool_files(), 0);
    }

    let mut ingest = fixture.cache.ingests().open_writer(&session, "ref", len, Some(digest)).await.unwrap();
    write_all(&mut ingest, &bytes).await.unwrap();
    fixture.store.refuse_parts(&[2]);
    drop(ingest);
    fixture.store.wait_for_no_upload().await;
    assert_eq!(fixture.spool_files(), 0);
}

#[tokio::test]
async fn an_ingest_that_is_not_what_was_announced_leaves_nothing() {
    let fixture = roomy().await;
    let bytes = content(OWN_PART * 3);
    let announced = Digest::of(b"other");
    let mut ingest = fixture.cache.ingests().open_writer(&fixture.grant, "ref", 0, Some(announced)).await.unwrap();
    ingest.write(0, bytes.clone().into()).await.unwrap();
    fixture.store.wait_for_parts(3).await;
    assert!(matches!(ingest.commit(None, Some(announced), BTreeMap::new()).await, Err(Error::Precondition(_))));
    fixture.store.wait_for_no_upload().await;
    assert!(fixture.store.keys().is_empty());
    fixture.cache.ingests().abort(&fixture.grant, "ref").await.unwrap();
    assert_eq!(fixture.spool_files(), 0);

    // Of an ingest that is not announced, or is small, no part is sent early.
    let session = operator();
    for (name, len, expected) in [("unannounced", OWN_PART * 3, None), ("small", OWN_PART * 2, Some(Digest::of(&bytes[..OWN_PART * 2])))] {
        let mut ingest = fixture.cache.ingests().open_writer(&session, name, 0, expected).await.unwrap();
        ingest.write(0, Bytes::copy_from_slice(&bytes[..len])).await.unwrap();
    }
    assert_eq!(fixture.store.begun_uploads(), 1);
}
