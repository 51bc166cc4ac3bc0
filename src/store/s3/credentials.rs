//! Credentials. They are renewed before they expire, and once when the store refuses them.
//!
//! The SDK's own cache also renews in time, but it cannot be told that its credentials are no longer valid. So it is turned
//! off, and each call asks here. When the call that began a fetch gives up waiting, the fetch goes on for the next call.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};

/// Credentials are renewed when a quarter of their life is left, but no earlier than this before their end.
const RENEW_BEFORE: Duration = Duration::from_secs(300);
/// How long a fetch may take. Credential processes sometimes open a browser and ask the user.
const FETCH_TIMEOUT: Duration = Duration::from_secs(60);
/// A refusal this soon after a fetch is not about the credentials that it brought.
const JUST_FETCHED: Duration = Duration::from_secs(5);

type Fetch = Shared<BoxFuture<'static, Result<Credentials, Arc<CredentialsError>>>>;

/// The credentials of one bucket. Clones share them.
#[derive(Clone)]
pub(super) struct RenewedCredentials(Arc<Inner>);

struct Inner {
    source: SharedCredentialsProvider,
    state: Mutex<Held>,
}

/// The credentials that are held, and when they were fetched.
#[derive(Default)]
struct Held {
    credentials: Option<Credentials>,
    /// `None`: they never expire.
    renew_at: Option<SystemTime>,
    fetch: Option<Fetch>,
    fetched: Option<Instant>,
    /// When a fetch last brought other credentials than were held.
    changed: Option<Instant>,
}

impl fmt::Debug for RenewedCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RenewedCredentials").finish_non_exhaustive()
    }
}

impl RenewedCredentials {
    pub(super) fn new(source: SharedCredentialsProvider) -> Self {
        Self(Arc::new(Inner { source, state: Mutex::default() }))
    }

    /// Called after the store has refused what was held. Returns whether there are other credentials now.
    pub(super) async fn renew(&self) -> bool {
        let recent = |at: Option<Instant>| at.is_some_and(|at| at.elapsed() < JUST_FETCHED);
        let fetched = self.state().fetched;
        // All calls that were refused together share one fetch.
        (recent(fetched) || self.fetch().await.is_ok()) && recent(self.state().changed)
    }

    async fn get(&self) -> provider::Result {
        let good = |state: &Held| state.credentials.clone().filter(|_| state.renew_at.is_none_or(|at| SystemTime::now() < at));
        let held = good(&self.state());
        match held {
            Some(held) => Ok(held),
            None => self.fetch().await,
        }
    }

    /// Fetches credentials, or waits for the fetch that is running. If that fails and the held ones are still valid, it
    /// returns those.
    async fn fetch(&self) -> provider::Result {
        let fetch = {
            let source = self.0.source.clone();
            let fetch = async move {
                match tokio::time::timeout(FETCH_TIMEOUT, source.provide_credentials()).await {
                    Ok(fetched) => fetched.map_err(Arc::new),
                    Err(_) => Err(Arc::new(CredentialsError::provider_timed_out(FETCH_TIMEOUT))),
                }
            };
            self.state().fetch.get_or_insert_with(|| fetch.boxed().shared()).clone()
        };
        let fetched = fetch.clone().await;
        let mut state = self.state();
        if state.fetch.as_ref().is_some_and(|current| current.ptr_eq(&fetch)) {
            state.take(&fetched);
        }
        match (fetched, &state.credentials) {
            (Ok(fetched), _) => Ok(fetched),
            (Err(error), Some(held)) if held.expiry().is_some_and(|expiry| SystemTime::now() < expiry) => {
                tracing::warn!(%error, "cannot renew the credentials for S3: {error}");
                Ok(held.clone())
            }
            (Err(error), _) => Err(match &*error {
                CredentialsError::CredentialsNotLoaded(_) => CredentialsError::not_loaded(error),
                CredentialsError::ProviderTimedOut(_) => CredentialsError::provider_timed_out(FETCH_TIMEOUT),
                _ => CredentialsError::provider_error(error),
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, Held> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Held {
    /// Takes over what a fetch has brought.
    fn take(&mut self, fetched: &Result<Credentials, Arc<CredentialsError>>) {
        self.fetch = None;
        self.fetched = Some(Instant::now());
        let Ok(fetched) = fetched else { return };
        self.renew_at = fetched.expiry().map(|expiry| {
            let life = expiry.duration_since(SystemTime::now()).unwrap_or_default();
            expiry - RENEW_BEFORE.min(life / 4)
        });
        if self.credentials.as_ref() != Some(fetched) {
            tracing::debug!(expiry = ?fetched.expiry(), "new credentials for S3");
            self.credentials = Some(fetched.clone());
            self.changed = Some(Instant::now());
        }
    }
}

impl ProvideCredentials for RenewedCredentials {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(self.get())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU64, Ordering};

    /// Provides numbered credentials that live for so long.
    #[derive(Debug, Clone, Default)]
    struct Source {
        life: Option<Duration>,
        fetches: Arc<AtomicU64>,
        slow: Option<Duration>,
    }

    impl ProvideCredentials for Source {
        fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
        where
            Self: 'a,
        {
            future::ProvideCredentials::new(async move {
                let number = self.fetches.fetch_add(1, Ordering::SeqCst) + 1;
                tokio::time::sleep(self.slow.unwrap_or_default()).await;
                let expiry = self.life.map(|life| SystemTime::now() + life);
                Ok(Credentials::new(number.to_string(), "secret", None, expiry, "test"))
            })
        }
    }

    fn renewed(source: Source) -> (RenewedCredentials, Source) {
        (RenewedCredentials::new(SharedCredentialsProvider::new(source.clone())), source)
    }

    #[tokio::test]
    async fn are_renewed_before_they_expire() {
        let (credentials, source) = renewed(Source { life: Some(Duration::from_millis(200)), ..Source::default() });
        while source.fetches.load(Ordering::SeqCst) < 5 {
            let held = credentials.get().await.unwrap();
            assert!(held.expiry().unwrap() > SystemTime::now(), "{held:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    #[tokio::test]
    async fn are_fetched_once_for_all_who_ask_and_kept() {
        let (credentials, source) = renewed(Source { slow: Some(Duration::from_millis(20)), ..Source::default() });
        futures_util::future::join_all((0..10).map(|_| credentials.get())).await;
        credentials.get().await.unwrap();
        assert_eq!(source.fetches.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_fetch_outlives_who_began_it() {
        let (credentials, source) = renewed(Source { slow: Some(Duration::from_millis(50)), ..Source::default() });
        for _ in 0..3 {
            let _ = tokio::time::timeout(Duration::from_millis(1), credentials.get()).await;
        }
        assert_eq!(credentials.get().await.unwrap().access_key_id(), "1");
        assert_eq!(source.fetches.load(Ordering::SeqCst), 1);
    }

    #[tokio::test]
    async fn a_refusal_renews_those_that_were_not_just_fetched() {
        let (credentials, source) = renewed(Source::default());
        credentials.get().await.unwrap();
        credentials.state().fetched = Instant::now().checked_sub(2 * JUST_FETCHED);
        credentials.state().changed = Instant::now().checked_sub(2 * JUST_FETCHED);
        assert!(credentials.renew().await);
        // Another call that was refused with the old credentials.
        assert!(credentials.renew().await);
        assert_eq!(credentials.get().await.unwrap().access_key_id(), "2");
        assert_eq!(source.fetches.load(Ordering::SeqCst), 2);
    }
}
