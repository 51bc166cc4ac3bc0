//! Read-ahead of the next layers of an import over a session, and what becomes of layers that nobody reads.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use remora::cache::Error;
use remora::types::{Digest, Documents, Grant, Rights};
use time::OffsetDateTime;

use crate::support::cache::{Fixture, HOUR, blob_key, build, collect, eventually, name};
use crate::support::documents::chain_of;

const SMALL: usize = 1000;
const LARGE: usize = 300 << 10;

/// A bucket with a manifest of one chain of layers, and a build that was served it.
struct Chain {
    fixture: Fixture,
    digests: Vec<Digest>,
    blobs: Vec<Bytes>,
    grant: Grant,
}

impl Chain {
    async fn over_session(sizes: &[usize]) -> Self {
        let documents = Arc::new(Documents::new(1 << 20));
        Self::new(sizes, build(Rights::IMPORT).documents(documents).build()).await
    }

    async fn new(sizes: &[usize], grant: Grant) -> Self {
        let fixture = Fixture::merging(HOUR).await;
        let blobs: Vec<Bytes> = (0..).zip(sizes).map(|(layer, size)| vec![layer; *size].into()).collect();
        let digests: Vec<Digest> = blobs.iter().map(|blob| fixture.plant(blob)).collect();
        let layers: Vec<_> = digests.iter().copied().zip(sizes.iter().copied()).collect();
        fixture.store.plant("manifests/app", chain_of(&layers), OffsetDateTime::now_utc());
        fixture.cache.manifests().import(&grant, &name()).await.unwrap();
        fixture.store.calls();
        Self { fixture, digests, blobs, grant }
    }

    async fn read(&self, layer: usize) -> Result<(), Error> {
        let read = self.fixture.cache.blobs().read(&self.grant, &self.digests[layer], None).await?;
        assert!(collect(read).await? == self.blobs[layer], "layer {layer}");
        Ok(())
    }

    fn metric(&self, name: &str) -> usize {
        self.fixture.metric(&format!("{name}_total")) as usize
    }

    async fn eventually(&self, reached: impl Fn(&Self) -> bool) {
        eventually("it does not come to that", || reached(self)).await;
    }
}

#[tokio::test]
async fn the_next_layers_are_there_when_a_session_asks_and_each_was_asked_for_once() {
    let chain = Chain::over_session(&[SMALL; 7]).await;
    chain.read(0).await.unwrap();
    chain.eventually(|chain| chain.metric("read_ahead_bytes") == 4 * SMALL).await;
    assert_eq!(chain.fixture.store.calls().gets, 1 + 4);
    for layer in 1..7 {
        chain.read(layer).await.unwrap();
    }
    assert_eq!(chain.fixture.store.calls().gets, 2);
    assert_eq!((chain.metric("read_ahead_bytes"), chain.metric("read_ahead_wasted_bytes")), (6 * SMALL, 0));
    assert_eq!(chain.grant.usage().blobs_served(), 7);
}

#[tokio::test]
async fn nothing_is_taken_of_a_large_layer_before_it_is_read() {
    let chain = Chain::over_session(&[SMALL, LARGE]).await;
    chain.read(0).await.unwrap();
    chain.eventually(|chain| chain.fixture.store.reads().borrow().open == 1).await;
    assert_eq!(chain.metric("read_ahead_bytes"), 0);
    chain.read(1).await.unwrap();
    assert_eq!(chain.fixture.store.calls().gets, 2);
}

#[tokio::test]
async fn a_lost_layer_fails_only_the_read_of_that_layer() {
    let chain = Chain::over_session(&[SMALL; 3]).await;
    chain.fixture.store.remove(&blob_key(&chain.digests[2]));
    chain.read(0).await.unwrap();
    chain.eventually(|chain| chain.metric("read_ahead_bytes") == SMALL).await;
    chain.read(1).await.unwrap();
    let lost = chain.read(2).await;
    assert!(matches!(lost, Err(Error::NotFound(_))), "{lost:?}");
}

#[tokio::test(start_paused = true)]
async fn a_read_ahead_that_nobody_asks_for_ends_and_is_counted() {
    let chain = Chain::over_session(&[SMALL, SMALL, LARGE]).await;
    chain.read(0).await.unwrap();
    chain.eventually(|chain| chain.metric("read_ahead_bytes") == SMALL && chain.fixture.store.reads().borrow().open == 1).await;
    tokio::time::sleep(Duration::from_secs(21)).await;
    assert_eq!((chain.metric("read_ahead_wasted_bytes"), chain.fixture.store.reads().borrow().open), (SMALL, 0));
}

#[tokio::test]
async fn nothing_is_read_ahead_over_http() {
    let chain = Chain::new(&[SMALL; 3], build(Rights::IMPORT).disclosed_blobs_only().build()).await;
    chain.read(0).await.unwrap();
    assert_eq!((chain.fixture.store.calls().gets, chain.fixture.store.reads().borrow().open), (1, 0));
}
