//! Layers that a manifest promised to a build, and a store that does not keep the promise.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use remora::cache::Error;
use remora::types::{Digest, Grant, Promises, Rights};
use tokio::time::Instant;

use crate::support::cache::{Fixture, Setup, scope};
use crate::support::fault_store::{Fault, FaultStore};
use crate::support::memory_store::MemoryStore;

const LAYER: &[u8] = b"a layer";

/// A build's import of a layer, from a store with faults.
struct Import {
    fixture: Fixture,
    store: FaultStore,
    promises: Arc<Promises>,
    grant: Grant,
}

impl Import {
    async fn start(replayable: bool) -> Self {
        let memory = MemoryStore::default();
        let promises = Arc::<Promises>::default();
        let store = FaultStore::new(memory.clone());
        let fixture = Setup::through(Arc::new(store.clone()), memory).start_merging(Duration::ZERO).await;
        fixture.plant(&Bytes::from_static(LAYER));
        promises.set_replayable(replayable);
        let grant = Grant::builder(scope(), Rights::IMPORT).losses(Arc::clone(&promises)).build();
        Self { fixture, store, promises, grant }
    }

    /// Reads a layer. Returns how that ends, and after how many seconds.
    async fn read(&self, layer: &[u8]) -> (Result<(), Error>, u64) {
        let begun = Instant::now();
        let read = self.fixture.cache.blobs().read_promised(&self.grant, &Digest::of(layer), None).await;
        (read.map(|_| ()), begun.elapsed().as_secs())
    }
}

#[tokio::test(start_paused = true)]
async fn a_layer_is_waited_for_once_for_a_minute_or_7_s_where_the_build_passes_without_it() {
    for fault in [Fault::Unavailable, Fault::Silence] {
        let import = Import::start(false).await;
        import.store.fails_with(fault);
        let (read, seconds) = import.read(LAYER).await;
        assert!(matches!(read, Err(Error::Unavailable(_))), "{read:?}");
        assert_eq!((seconds, import.promises.is_broken()), (60, true));

        let import = Import::start(true).await;
        import.store.fails_with(fault);
        // BuildKit asks again after other errors.
        let (read, seconds) = import.read(LAYER).await;
        assert!(matches!(read, Err(Error::NotFound(_))), "{read:?}");
        assert_eq!((seconds, import.promises.is_broken()), (7, true));
        let calls = import.store.calls();
        let (read, seconds) = import.read(LAYER).await;
        assert!(matches!(read, Err(Error::NotFound(_))), "{read:?}");
        assert_eq!((seconds, import.store.calls()), (0, calls), "nothing is asked for a second time");
    }
}

#[tokio::test(start_paused = true)]
async fn a_store_that_is_back_in_time_keeps_the_promise() {
    let import = Import::start(true).await;
    import.store.fails_with(Fault::Unavailable);
    let back = async {
        tokio::time::sleep(Duration::from_secs(4)).await;
        import.store.fails_with(Fault::None);
    };
    let ((read, _), ()) = tokio::join!(import.read(LAYER), back);
    read.unwrap();
    assert!(!import.promises.is_broken());
}

#[tokio::test(start_paused = true)]
async fn a_layer_that_is_gone_is_a_broken_promise_at_once() {
    let import = Import::start(true).await;
    let (read, seconds) = import.read(b"another").await;
    assert!(matches!(read, Err(Error::NotFound(_))), "{read:?}");
    assert_eq!((seconds, import.promises.is_broken()), (0, true));
}
