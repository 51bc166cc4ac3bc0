//! The two sides of the guard: what it asks of a store below it, and what it tells those above it.

use std::time::Duration;

use async_trait::async_trait;

use super::policy::Deadlines;
use crate::store::{Error, Store};

/// A store over a network, as [`Guarded`](super::Guarded) takes it.
#[async_trait]
pub trait RemoteStore: Store {
    /// Called after the store has refused the credentials of a call. Returns whether a retry would be signed with
    /// something else (newer credentials, a corrected clock), so that it is worth making.
    async fn refresh_credentials_after(&self, _refusal: &Error) -> bool {
        false
    }
}

/// A store that also says how it is doing. This is what the layers above see: a [`Guarded`](super::Guarded) store, or one
/// that needs no guard. The methods that are given here are those of a store that always answers.
#[async_trait]
pub trait GuardedStore: Store {
    /// Whether the store has room for a call that is not strictly needed. It has none while it is throttling or does not
    /// answer, or while as many calls are in flight as it may have.
    fn has_headroom(&self) -> bool {
        true
    }

    /// Waits while the store is known not to answer.
    async fn wait_until_available(&self) {}

    /// How long a call that sends next to nothing may take, with its retries. After this time it can no longer reach the
    /// store.
    fn longest_call(&self) -> Duration {
        Deadlines::default().total
    }
}
