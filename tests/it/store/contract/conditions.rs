//! Conditional writes: who wins, and that no update is lost.

use futures_util::future::join_all;
use remora::store::{Condition, Error};
use remora::types::ETag;

use super::{Shared, assert_not_found, assert_precondition, body, bytes, key, keys, put, read};

pub(super) async fn a_put_is_conditional(store: Shared) {
    let target = key("conditional");
    assert_precondition(store.put(&target, body("x"), Condition::Matches(ETag::new("0123456789abcdef0123456789abcdef"))).await);
    assert_not_found(store.head(&target).await);
    let first = store.put(&target, body("first"), Condition::Absent).await.unwrap();
    assert_precondition(store.put(&target, body("x"), Condition::Absent).await);
    let second = store.put(&target, body("second"), Condition::Matches(first.clone())).await.unwrap();
    assert_precondition(store.put(&target, body("x"), Condition::Matches(first)).await);
    assert_eq!(read(&store, &target).await, b"second");
    store.touch(&target).await.unwrap();
    assert_eq!(read(&store, &target).await, b"second");
    store.delete(&target).await.unwrap();
    assert_precondition(store.put(&target, body("x"), Condition::Matches(second)).await);
    assert_eq!(keys(&store).await, [""; 0]);
}

pub(super) async fn of_concurrent_creators_one_wins(store: Shared) {
    for round in 0..5 {
        let target = key(&format!("created-{round}"));
        let texts: Vec<String> = (0..8).map(|writer| format!("writer {writer}")).collect();
        let puts = texts.iter().map(|text| store.put(&target, body(text), Condition::Absent));
        let outcomes = join_all(puts).await;
        let winners: Vec<&String> = texts.iter().zip(&outcomes).filter_map(|(text, outcome)| outcome.is_ok().then_some(text)).collect();
        assert_eq!(winners.len(), 1, "{outcomes:?}");
        assert_eq!(read(&store, &target).await, winners[0].as_bytes());
        outcomes.into_iter().filter(Result::is_err).for_each(assert_precondition);
    }
}

pub(super) async fn no_conditional_update_is_lost(store: Shared) {
    const WRITERS: usize = 6;
    const EACH: usize = 8;
    let counter = key("counter");
    // All have one length, so that only the version tells two of them apart.
    put(&store, &counter, "0000").await;
    let writer = || async {
        for _ in 0..EACH {
            loop {
                let object = store.get(&counter, None, None).await.unwrap();
                let version = object.meta.etag.clone();
                let count: u32 = String::from_utf8(bytes(object).await).unwrap().parse().unwrap();
                match store.put(&counter, body(&format!("{:04}", count + 1)), Condition::Matches(version)).await {
                    Ok(_) => break,
                    Err(Error::Precondition(_)) => {}
                    Err(error) => panic!("{error}"),
                }
            }
        }
    };
    join_all((0..WRITERS).map(|_| writer())).await;
    assert_eq!(read(&store, &counter).await, format!("{:04}", WRITERS * EACH).as_bytes());
}
