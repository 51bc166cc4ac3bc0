//! The builds that run, and the line that each leaves in the log.

use std::collections::{BTreeSet, HashMap};
use std::fmt::Write as _;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use tokio::sync::OnceCell;
use tonic::Code;

use crate::auth::{BuildGuard, IssuedGrant, Keyring, Purpose};
use crate::endpoints::control::options::attrs::Target;
use crate::endpoints::control::replay::runner::Replay;
use crate::endpoints::control::transports::route::Route;
use crate::metrics::{Metrics, Transport};
use crate::types::{Digest, Grant, ManifestName, Usage};

/// All builds that run now.
#[derive(Debug)]
pub(crate) struct Builds {
    keyring: Keyring,
    metrics: Metrics,
    running: Mutex<HashMap<String, Weak<Build>>>,
}

/// One build, from its `Control/Solve` to that call's end.
#[derive(Debug)]
pub(crate) struct Build {
    reference: String,
    session: String,
    started: Instant,
    usage: Arc<Usage>,
    route: OnceCell<Route>,
    record: Mutex<Record>,
    /// What each import through the session finds.
    imports: Mutex<HashMap<String, Import>>,
    replay: Replay,
    builds: Arc<Builds>,
    _grants: BuildGuard,
}

/// The digest of what an import begins with, if there is anything.
pub(crate) type Import = Shared<BoxFuture<'static, Option<Digest>>>;

#[derive(Debug, Default)]
struct Record {
    imported: BTreeSet<ManifestName>,
    exported: BTreeSet<ManifestName>,
    session_exports: Vec<SessionExport>,
    code: Option<Code>,
}

/// An export through a session: published when the build has succeeded.
#[derive(Debug, Clone)]
pub(crate) struct SessionExport {
    /// Its documents hold the manifest.
    pub(crate) grant: Grant,
    /// What to publish it as.
    pub(crate) names: Vec<ManifestName>,
    /// Whether the build passes without it.
    pub(crate) ignore_error: bool,
}

impl Builds {
    pub(crate) fn new(keyring: Keyring, metrics: Metrics) -> Self {
        Self { keyring, metrics, running: Mutex::default() }
    }

    /// A build begins. Every one is registered: its later gateway calls may carry cache options where
    /// this one has none, and it may share steps with builds beside it.
    pub(crate) fn begin(self: &Arc<Self>, reference: &str, session: &str) -> Arc<Build> {
        let grants = self.keyring.begin_build(reference);
        let build = Arc::new(Build {
            reference: reference.to_owned(),
            session: session.to_owned(),
            started: Instant::now(),
            usage: self.keyring.usage(reference).unwrap_or_default(),
            route: OnceCell::new(),
            record: Mutex::default(),
            imports: Mutex::default(),
            replay: Replay::new(self.keyring.promises(reference).unwrap_or_default()),
            builds: Arc::clone(self),
            _grants: grants,
        });
        self.metrics.change_builds_running(1);
        self.running.lock().unwrap_or_else(PoisonError::into_inner).insert(reference.to_owned(), Arc::downgrade(&build));
        build
    }

    /// The keys that grants are looked up by.
    pub(crate) fn keyring(&self) -> &Keyring {
        &self.keyring
    }

    /// The running build of a reference.
    pub(crate) fn find(&self, reference: &str) -> Option<Arc<Build>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).get(reference)?.upgrade()
    }

    /// All that run now.
    pub(crate) fn all(&self) -> Vec<Arc<Build>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner).values().filter_map(Weak::upgrade).collect()
    }
}

impl Build {
    /// How the build's cache goes; `choose` is asked once a build.
    pub(crate) async fn route(&self, choose: impl Future<Output = Route>) -> &Route {
        let chosen = async {
            let route = choose.await;
            self.builds.metrics.build(match route {
                Route::Relay(_) => Transport::Relay,
                Route::Session => Transport::Session,
            });
            route
        };
        self.route.get_or_init(|| chosen).await
    }

    /// A grant for one of its cache entries.
    pub(crate) fn grant(&self, purpose: Purpose, target: &Target) -> Option<IssuedGrant> {
        self.note(purpose, target);
        self.builds.keyring.issue(&self.reference, &target.request(purpose))
    }

    /// The same for the session transport: the id that the grant is looked up by, and the grant.
    pub(crate) fn session_grant(&self, purpose: Purpose, target: &Target, max_document_bytes: u64) -> Option<(String, Grant)> {
        self.note(purpose, target);
        let keyring = &self.builds.keyring;
        let issued = keyring.issue_for_session(&self.reference, &target.request(purpose), max_document_bytes)?;
        let grant = keyring.lookup(&issued.access_key_id).ok()?.grant;
        Some((issued.access_key_id, grant))
    }

    /// What an import through the session finds: looked for once, however many calls ask, and one that goes
    /// away leaves what was done to the next.
    pub(crate) fn imported_once(&self, store: &str, import: impl FnOnce() -> BoxFuture<'static, Option<Digest>>) -> Import {
        let mut imports = self.imports.lock().unwrap_or_else(PoisonError::into_inner);
        imports.entry(store.to_owned()).or_insert_with(|| import().shared()).clone()
    }

    /// Remembers an export to publish at the end.
    pub(crate) fn exports_through_session(&self, export: SessionExport) {
        self.record().session_exports.push(export);
    }

    /// The exports to publish at the end.
    pub(crate) fn session_exports(&self) -> Vec<SessionExport> {
        self.record().session_exports.clone()
    }

    fn note(&self, purpose: Purpose, target: &Target) {
        let mut record = self.record();
        let names = match purpose {
            Purpose::Import => &mut record.imported,
            Purpose::Export => &mut record.exported,
        };
        names.extend(target.names.iter().cloned());
    }

    /// Its name, by the client's choice.
    pub(crate) fn reference(&self) -> &str {
        &self.reference
    }

    /// The id of its session.
    pub(crate) fn session(&self) -> &str {
        &self.session
    }

    /// What it takes to run it again.
    pub(crate) fn replay(&self) -> &Replay {
        &self.replay
    }

    /// The `Control/Solve` ended.
    pub(crate) fn ends_with(&self, code: Code) {
        self.record().code = Some(code);
    }

    fn record(&self) -> std::sync::MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Build {
    fn drop(&mut self) {
        self.builds.metrics.change_builds_running(-1);
        let mut running = self.builds.running.lock().unwrap_or_else(PoisonError::into_inner);
        // A build with the same reference may have begun since.
        if running.get(&self.reference).is_some_and(|build| build.strong_count() == 0) {
            running.remove(&self.reference);
        }
        drop(running);
        if self.route.initialized() {
            let usage = &self.usage;
            let summary = summary(&self.record(), usage, self.started.elapsed());
            tracing::info!(
                build.ref = %self.reference,
                build.layers_offered = usage.layers_offered(),
                build.layers_read = usage.blobs_served(),
                build.bytes_read = usage.bytes_served(),
                build.layers_written = usage.blobs_written(),
                build.bytes_written = usage.bytes_written(),
                build.layers_reused = usage.blobs_reused(),
                "build {}: {summary}",
                self.reference,
            );
        }
    }
}

/// `imported app: 12 layers offered, 3 read (340.0 MiB), exported app: 2 new layers (12.0 MiB), 10 reused; ok in 12.3s`
fn summary(record: &Record, usage: &Usage, took: Duration) -> String {
    let mut parts = Vec::new();
    if !record.imported.is_empty() {
        let found = match usage.manifests_read() {
            0 => "nothing there".to_owned(),
            _ => format!("{} layers offered, {} read ({})", usage.layers_offered(), usage.blobs_served(), Size(usage.bytes_served())),
        };
        parts.push(format!("imported {}: {found}", joined(&record.imported)));
    }
    if !record.exported.is_empty() {
        let (new, bytes, reused) = (usage.blobs_written(), Size(usage.bytes_written()), usage.blobs_reused());
        let unpublished = if usage.manifests_written() == 0 { " (no manifest was published)" } else { "" };
        parts.push(format!("exported {}: {new} new layers ({bytes}), {reused} reused{unpublished}", joined(&record.exported)));
    }
    if parts.is_empty() {
        parts.push("no remote cache".to_owned());
    }
    let mut text = parts.join(", ");
    let ended = match record.code {
        Some(Code::Ok) => "ok".to_owned(),
        Some(Code::Cancelled) | None => "cancelled".to_owned(),
        Some(code) => format!("failed ({code:?})"),
    };
    let _ = write!(text, "; {ended} in {:.1}s", took.as_secs_f64());
    text
}

fn joined(names: &BTreeSet<ManifestName>) -> String {
    names.iter().map(ManifestName::as_str).collect::<Vec<_>>().join(", ")
}

/// Prints bytes for people.
struct Size(u64);

impl std::fmt::Display for Size {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        const MIB: u64 = 1 << 20;
        match self.0 {
            bytes if bytes < 1 << 10 => write!(f, "{bytes} B"),
            bytes if bytes < MIB => write!(f, "{}.{} KiB", bytes >> 10, ((bytes & 0x3ff) * 10) >> 10),
            bytes => write!(f, "{}.{} MiB", bytes >> 20, ((bytes & (MIB - 1)) * 10) >> 20),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_build_leaves_one_line() {
        let (usage, mut record) = (Usage::default(), Record::default());
        let line = |record: &Record, usage: &Usage| summary(record, usage, Duration::from_millis(12_345));
        assert_eq!(line(&record, &usage), "no remote cache; cancelled in 12.3s");
        record.imported.insert("app".parse().unwrap());
        assert_eq!(line(&record, &usage), "imported app: nothing there; cancelled in 12.3s");
        record.exported.extend(["app", "main"].map(|name| name.parse().unwrap()));
        record.code = Some(Code::Ok);
        usage.manifest_read(12);
        usage.blob_served();
        usage.sent(340 << 20);
        usage.blob_written(1536);
        usage.blob_reused();
        usage.manifest_written();
        let wanted =
            "imported app: 12 layers offered, 1 read (340.0 MiB), exported app, main: 1 new layers (1.5 KiB), 1 reused; ok in 12.3s";
        assert_eq!(line(&record, &usage), wanted);
    }
}
