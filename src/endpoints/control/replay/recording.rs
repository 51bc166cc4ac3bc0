//! What a build asked of buildkitd, kept to ask it once more without the cache imports.
//!
//! Few calls make a build (*ran*, buildctl and buildx): `Control/Solve`, which lasts as long as the build,
//! and beside it `LLBBridge/Solve`, whose answer names results by ids, and `LLBBridge/Return`, which says by
//! their ids which of them are the build's. All other calls of a build only look, or are of a kind that
//! is not repeated ([`Recording::give_up`]). The ids of a repeated call are others, so that they are
//! replaced in what comes behind it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header, request};

use crate::endpoints::control::grpc::message;
use crate::endpoints::control::grpc::wire;
use crate::endpoints::control::grpc::wire::{Edit, Field, Malformed};
use crate::endpoints::control::options::rewrite::Solve;
use crate::endpoints::control::proxy::body::RequestBody;

/// Bytes kept of one build. Its Dockerfile comes by another way, so most builds have some KiB.
const MAX_BYTES: usize = 4 << 20;

/// The calls of one build, as long as they can be repeated.
#[derive(Debug, Default)]
pub(crate) struct Recording(Mutex<Option<Calls>>);

#[derive(Debug)]
struct Calls {
    asked: Vec<Asked>,
    bytes: usize,
    writes_to_client: bool,
}

/// Where a build's results go.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Outputs {
    /// To a registry or to buildkitd's own images, where the second of the same changes nothing.
    images: usize,
    /// To the client as files or archives, who would get them twice.
    files: usize,
    /// Caches that are not in a `type=s3`.
    foreign_caches: usize,
    /// For the client to say, later.
    by_session: bool,
}

/// A unary call, without the cache imports.
pub(crate) struct Asked {
    uri: Uri,
    headers: HeaderMap,
    message: Bytes,
    /// The results that its answer named.
    results: Results,
}

impl fmt::Debug for Asked {
    /// Without the rest, which has secrets: grants, build arguments, the client's metadata.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Asked").field("uri", &self.uri).finish_non_exhaustive()
    }
}

/// The ids in the answer of a `LLBBridge/Solve`, by the places where they stand.
type Results = BTreeMap<String, String>;

impl Recording {
    /// The build begins with this call. Returns whether it can be repeated.
    pub(crate) fn begin(&self, build: Asked, outputs: Outputs) -> bool {
        let begun = Calls { asked: Vec::new(), bytes: 0, writes_to_client: outputs.files > 0 };
        *self.calls() = outputs.are_repeatable().then_some(begun);
        self.add(build)
    }

    /// The build goes on with this call. Returns whether it still can be repeated.
    pub(crate) fn add(&self, call: Asked) -> bool {
        let mut calls = self.calls();
        if let Some(recorded) = calls.as_mut() {
            recorded.bytes += call.bytes();
            recorded.asked.push(call);
        }
        *calls = calls.take().filter(|recorded| recorded.bytes <= MAX_BYTES);
        calls.is_some()
    }

    /// The build does what cannot be repeated, or need not be any more.
    pub(crate) fn give_up(&self) {
        *self.calls() = None;
    }

    /// Whether calls are kept.
    pub(crate) fn is_on(&self) -> bool {
        self.calls().is_some()
    }

    /// Whether there is room for this call.
    pub(crate) fn holds(&self, call: &Asked) -> bool {
        self.calls().as_ref().is_some_and(|recorded| recorded.bytes + call.bytes() <= MAX_BYTES)
    }

    /// The calls, to be repeated once. `None` also where the client has got its files: when the export of the
    /// cache had begun.
    pub(crate) fn take(&self, export_begun: bool) -> Option<Vec<Asked>> {
        let calls = self.calls().take().filter(|calls| !(calls.writes_to_client && export_begun))?;
        calls.are_complete().then_some(calls.asked)
    }

    fn calls(&self) -> MutexGuard<'_, Option<Calls>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Calls {
    /// Whether buildkitd has all that it waits for: the client's last word, or in the request what to build
    /// (`Definition`, 2) or what knows it (`Frontend`, 6).
    fn are_complete(&self) -> bool {
        let whole = |request: &Asked| [2, 6].iter().any(|field| wire::last(&request.message, *field).is_ok_and(|value| !value.is_empty()));
        self.asked.last().is_some_and(|last| Solve::of(last.uri.path()) == Some(Solve::Return)) || self.asked.first().is_some_and(whole)
    }
}

impl Outputs {
    /// Those of a `SolveRequest`: its `Exporters` (13), or the one of older clients (3), its cache exports
    /// (4 in 8), and `EnableSessionExporter` (14).
    pub(crate) fn of(request: &[u8]) -> Result<Self, Malformed> {
        let (mut outputs, mut older) = (Self::default(), &[][..]);
        for field in wire::fields(request) {
            match field? {
                Field { number: 13, payload: Some(exporter), .. } => outputs.add(wire::last(exporter, 1)?),
                Field { number: 3, payload: Some(exporter), .. } => older = exporter,
                Field { number: 14, .. } => outputs.by_session = true,
                Field { number: 8, payload: Some(options), .. } => {
                    for field in wire::fields(options) {
                        if let Field { number: 4, payload: Some(entry), .. } = field? {
                            outputs.foreign_caches += usize::from(!matches!(wire::last(entry, 1)?, b"s3" | b"inline"));
                        }
                    }
                }
                _ => {}
            }
        }
        if outputs.images + outputs.files == 0 && !older.is_empty() {
            outputs.add(older);
        }
        Ok(outputs)
    }

    fn add(&mut self, exporter: &[u8]) {
        match exporter {
            b"image" => self.images += 1,
            _ => self.files += 1,
        }
    }

    /// Whether nobody gets anything twice. Each of BuildKit's exporters reads all layers before it writes
    /// the first file; so a single one has written nothing when a layer is lost, and the exports of caches
    /// come behind it.
    fn are_repeatable(self) -> bool {
        !self.by_session && (self.files == 0 || (self.files + self.images == 1 && self.foreign_caches == 0))
    }
}

impl Asked {
    /// The call of `head`, with this message in place of its own.
    pub(crate) fn new(head: &request::Parts, message: Bytes) -> Self {
        let mut headers = head.headers.clone();
        headers.remove(header::CONTENT_LENGTH);
        Self { uri: head.uri.clone(), headers, message, results: Results::new() }
    }

    /// Its answer, where that names results.
    pub(crate) fn answered(mut self, answer: &[u8]) -> Result<Self, Malformed> {
        self.results = results(answer)?;
        Ok(self)
    }

    /// The ids that its answer named, each with the one that stands in its place in another answer. `None`:
    /// that names others, and no later call can be made on it.
    pub(crate) fn paired_results(&self, answer: &[u8]) -> Option<Vec<(String, String)>> {
        let new = results(answer).ok()?;
        let pair = |(place, old): (&String, &String)| {
            let new = new.get(place).filter(|new| new.len() == old.len())?;
            Some((old.clone(), new.clone()))
        };
        self.results.iter().map(pair).collect()
    }

    /// The same `Control/Solve` as a build of another reference (`SolveRequest.Ref`). `None` over 4 GiB.
    pub(crate) fn as_build(&self, reference: &str) -> Result<Option<Request<RequestBody>>, Malformed> {
        let edited = wire::edit(&self.message, |field| {
            Ok::<_, Malformed>(if field.number == 1 { Edit::Replace(reference.into()) } else { Edit::Keep })
        })?;
        Ok(self.request(edited.as_deref().unwrap_or(&self.message)))
    }

    /// The same gateway call for the build that `metadata` names, with the ids of earlier calls replaced by
    /// new ones. `None` over 4 GiB.
    pub(crate) fn in_build(&self, metadata: (HeaderName, HeaderValue), ids: &[(String, String)]) -> Option<Request<RequestBody>> {
        let mut message = self.message.to_vec();
        ids.iter().for_each(|(old, new)| replace(&mut message, old.as_bytes(), new.as_bytes()));
        let mut request = self.request(&message)?;
        request.headers_mut().insert(metadata.0, metadata.1);
        Some(request)
    }

    fn request(&self, message: &[u8]) -> Option<Request<RequestBody>> {
        let mut request = Request::new(RequestBody::Whole(message::frame(message)?));
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        Some(request)
    }

    fn bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
        let results: usize = self.results.iter().map(|(place, id)| place.len() + id.len()).sum();
        headers + results + self.message.len()
    }
}

/// Replaces every occurrence of one id by another of the same length, so that no length around it changes.
/// BuildKit's ids are 25 random characters (`identity.NewID`): none stands in a message by chance.
fn replace(message: &mut [u8], old: &[u8], new: &[u8]) {
    let mut at = 0;
    while let Some(found) = message[at..].windows(old.len()).position(|window| window == old) {
        at += found;
        message[at..at + old.len()].copy_from_slice(new);
        at += old.len();
    }
}

/// The ids in a `SolveResponse`: its `ref` (1) and its `Result` (3) with a single one (1 or 3), those of a
/// map (2 or 4), and those of attestations (12).
fn results(answer: &[u8]) -> Result<Results, Malformed> {
    let mut found = Results::new();
    let mut note = |place: String, id: &[u8]| {
        let id = std::str::from_utf8(id).map_err(|_| Malformed)?;
        if !id.is_empty() {
            found.insert(place, id.to_owned());
        }
        Ok(())
    };
    note("ref".to_owned(), wire::last(answer, 1)?)?;
    for field in wire::fields(wire::last(answer, 3)?) {
        let Field { number, payload: Some(payload), .. } = field? else { continue };
        match number {
            1 => note("result".to_owned(), payload)?,
            3 => note("result".to_owned(), wire::last(payload, 1)?)?,
            2 | 4 => {
                for entry in wire::fields(payload) {
                    let Some(entry) = entry?.payload else { continue };
                    let (key, value) = (String::from_utf8_lossy(wire::last(entry, 1)?), wire::last(entry, 2)?);
                    note(format!("result {key}"), if number == 2 { value } else { wire::last(value, 1)? })?;
                }
            }
            12 => {
                let key = String::from_utf8_lossy(wire::last(payload, 1)?).into_owned();
                for (index, attestation) in wire::fields(wire::last(payload, 2)?).enumerate() {
                    let Some(attestation) = attestation?.payload else { continue };
                    note(format!("attestation {key} {index}"), wire::last(wire::last(attestation, 3)?, 1)?)?;
                }
            }
            _ => {}
        }
    }
    Ok(found)
}
