//! Credentials, renewed before they expire and once when the store refuses them.
//!
//! The SDK's own cache renews in time too, but nobody can tell it that what it holds is no longer valid. So
//! it is off, and each call asks here. A fetch goes on for the next who asks when the one it was begun for
//! has given up waiting.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use aws_credential_types::Credentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_credential_types::provider::{self, ProvideCredentials, SharedCredentialsProvider, future};
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};

/// They are renewed with a quarter of their life left, but no sooner than this before the end.
const RENEW_BEFORE: Duration = Duration::from_secs(300);
/// What a fetch may take. Credential processes ask people's browsers sometimes.
const FETCH_TIMEOUT: Duration = Duration::from_secs(60);
/// Refusals this soon after a fetch are not about what it brought.
const JUST_FETCHED: Duration = Duration::from_secs(5);

type Fetch = Shared<BoxFuture<'static, Result<Credentials, Arc<CredentialsError>>>>;

/// The credentials of one bucket. Clones are one and the same.
#[derive(Clone)]
pub(super) struct Renewed(Arc<Inner>);

struct Inner {
    source: SharedCredentialsProvider,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    held: Option<Credentials>,
    /// `None`: they are good for ever.
    renew_at: Option<SystemTime>,
    fetch: Option<Fetch>,
    fetched: Option<Instant>,
    /// When a fetch last brought others than were held.
    changed: Option<Instant>,
}

impl fmt::Debug for Renewed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Renewed").finish_non_exhaustive()
    }
}

impl Renewed {
    pub(super) fn new(source: SharedCredentialsProvider) -> Self {
        Self(Arc::new(Inner { source, state: Mutex::default() }))
    }

    /// After the store has refused what was held: whether there are others now.
    pub(super) async fn renew(&self) -> bool {
        let recent = |at: Option<Instant>| at.is_some_and(|at| at.elapsed() < JUST_FETCHED);
        let fetched = self.state().fetched;
        // One fetch does for all calls that were refused together.
        (recent(fetched) || self.fetch().await.is_ok()) && recent(self.state().changed)
    }

    async fn get(&self) -> provider::Result {
        let good = |state: &State| state.held.clone().filter(|_| state.renew_at.is_none_or(|at| SystemTime::now() < at));
        let held = good(&self.state());
        match held {
            Some(held) => Ok(held),
            None => self.fetch().await,
        }
    }

    /// Fetches, or waits for the fetch under way. What is held and good still beats an error.
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
        match (fetched, &state.held) {
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

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes what a fetch has brought.
    fn take(&mut self, fetched: &Result<Credentials, Arc<CredentialsError>>) {
        (self.fetch, self.fetched) = (None, Some(Instant::now()));
        let Ok(fetched) = fetched else { return };
        self.renew_at = fetched.expiry().map(|expiry| {
            let life = expiry.duration_since(SystemTime::now()).unwrap_or_default();
            expiry - RENEW_BEFORE.min(life / 4)
        });
        if self.held.as_ref() != Some(fetched) {
            tracing::debug!(expiry = ?fetched.expiry(), "new credentials for S3");
            (self.held, self.changed) = (Some(fetched.clone()), Some(Instant::now()));
        }
    }
}

impl ProvideCredentials for Renewed {
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

    /// Gives credentials that are numbered and live for so long.
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

    fn renewed(source: Source) -> (Renewed, Source) {
        (Renewed::new(SharedCredentialsProvider::new(source.clone())), source)
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
        // The others whose calls were refused with the old ones.
        assert!(credentials.renew().await);
        assert_eq!(credentials.get().await.unwrap().access_key_id(), "2");
        assert_eq!(source.fetches.load(Ordering::SeqCst), 2);
    }
}
