//! A registry that wants credentials, takes what is pushed and keeps none of it.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use axum::Router;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse as _, Response};

/// How a caller is to prove who it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Challenge {
    /// With its credentials.
    Basic,
    /// With a token, which its credentials buy.
    Bearer,
}

const TOKEN: &str = "token-of-the-registry";
const BASIC_REALM: &str = "Basic realm=\"test\"";

/// Answers until the test process ends.
#[derive(Debug, Clone)]
pub struct Registry(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    challenge: Challenge,
    port: u16,
    /// Whether tokens and uploads are left without an answer.
    silent: AtomicBool,
    waiting: AtomicBool,
    seen: Mutex<BTreeSet<(String, String)>>,
}

impl Registry {
    pub fn start(challenge: Challenge) -> Self {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.set_nonblocking(true).expect("listener");
        let port = listener.local_addr().expect("address").port();
        let silent = AtomicBool::new(false);
        let waiting = AtomicBool::new(false);
        let seen = Mutex::default();
        let registry = Self(Arc::new(Shared { challenge, port, silent, waiting, seen }));
        let shared = Arc::clone(&registry.0);
        std::thread::spawn(move || {
            let handler = move |method: Method, uri: Uri, headers: HeaderMap, body: axum::body::Body| {
                let shared = Arc::clone(&shared);
                async move {
                    // An upload is taken whole before it is answered.
                    let _ = axum::body::to_bytes(body, usize::MAX).await;
                    shared.answer(&method, uri.path(), &headers).await
                }
            };
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(listener).expect("listener");
                axum::serve(listener, Router::new().fallback(handler)).await
            })
        });
        registry
    }

    pub fn host(&self) -> String {
        format!("127.0.0.1:{}", self.0.port)
    }

    /// Credentials that came, and on which kind of request; forgets them.
    pub fn credentials(&self) -> BTreeSet<(String, String)> {
        std::mem::take(&mut *self.0.seen.lock().expect("no panic"))
    }

    /// From now on whether a request with credentials is left without an answer.
    pub fn be_silent(&self, silent: bool) {
        self.0.silent.store(silent, Ordering::SeqCst);
        self.0.waiting.store(false, Ordering::SeqCst);
    }

    /// Whether somebody waits for an answer that does not come.
    pub fn keeps_somebody_waiting(&self) -> bool {
        self.0.waiting.load(Ordering::SeqCst)
    }
}

impl Shared {
    async fn answer(&self, method: &Method, path: &str, headers: &HeaderMap) -> Response {
        let given = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok()).unwrap_or_default();
        // Clients try OAuth, whose form has the credentials, and then ask as most registries want it.
        if path == "/token" && *method == Method::POST {
            return StatusCode::METHOD_NOT_ALLOWED.into_response();
        }
        if path == "/token" {
            self.saw("token", given).await;
            return format!("{{\"token\":\"{TOKEN}\",\"access_token\":\"{TOKEN}\",\"expires_in\":300}}").into_response();
        }
        let (wanted, realm) = match self.challenge {
            Challenge::Basic => ("Basic ".to_owned(), BASIC_REALM.to_owned()),
            Challenge::Bearer => {
                (format!("Bearer {TOKEN}"), format!("Bearer realm=\"http://127.0.0.1:{}/token\",service=\"test\"", self.port))
            }
        };
        if !given.starts_with(&wanted) {
            return (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, realm)]).into_response();
        }
        self.saw(method.as_str(), given).await;
        match *method {
            Method::POST => (StatusCode::ACCEPTED, [(header::LOCATION, format!("{path}1"))]).into_response(),
            Method::PUT => StatusCode::CREATED.into_response(),
            _ => StatusCode::NOT_FOUND.into_response(),
        }
    }

    async fn saw(&self, request: &str, given: &str) {
        self.seen.lock().expect("no panic").insert((request.to_owned(), given.to_owned()));
        if self.silent.load(Ordering::SeqCst) {
            self.waiting.store(true, Ordering::SeqCst);
            std::future::pending::<()>().await;
        }
    }
}
