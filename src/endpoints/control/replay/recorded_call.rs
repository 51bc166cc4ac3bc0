//! One recorded call of a build, and how it is made again.
//!
//! A call that is made again is answered with other ids than before. Later calls name those ids, so the old ones
//! are replaced in them.

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Uri, header, request};

use crate::endpoints::control::grpc::message;
use crate::endpoints::control::grpc::wire::{self, Edit, Field, Malformed};
use crate::endpoints::control::options::SolveCall;
use crate::endpoints::control::proxy::RequestBody;

/// A unary call of a build.
pub(crate) struct RecordedCall {
    uri: Uri,
    headers: HeaderMap,
    message: Bytes,
    /// The ids that its answer named.
    results: ResultIds,
}

impl fmt::Debug for RecordedCall {
    /// Shows the path alone: all else has secrets, such as grants, build arguments and the client's metadata.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordedCall").field("uri", &self.uri).finish_non_exhaustive()
    }
}

/// The ids in the answer of a `LLBBridge/Solve`, by the places where they stand.
type ResultIds = BTreeMap<String, String>;

impl RecordedCall {
    /// The call of `head`, with this message in place of its own.
    pub(super) fn new(head: &request::Parts, message: Bytes) -> Self {
        let mut headers = head.headers.clone();
        headers.remove(header::CONTENT_LENGTH);
        Self { uri: head.uri.clone(), headers, message, results: ResultIds::new() }
    }

    /// The same call, with the ids that its answer named.
    pub(super) fn with_answer(mut self, answer: &[u8]) -> Result<Self, Malformed> {
        self.results = result_ids(answer)?;
        Ok(self)
    }

    /// The ids that its answer named, each with the id that stands in the same place of another answer. `None`
    /// where that answer has no such place: then no later call can be made on it.
    pub(super) fn paired_ids(&self, answer: &[u8]) -> Option<Vec<(String, String)>> {
        let new = result_ids(answer).ok()?;
        let pair = |(place, old): (&String, &String)| {
            let new = new.get(place).filter(|new| new.len() == old.len())?;
            Some((old.clone(), new.clone()))
        };
        self.results.iter().map(pair).collect()
    }

    /// This `Control/Solve` as a build of another reference (`SolveRequest.Ref`). `None` over 4 GiB.
    pub(super) fn as_build(&self, reference: &str) -> Result<Option<Request<RequestBody>>, Malformed> {
        let edited = wire::edit(&self.message, |field| {
            Ok::<_, Malformed>(if field.number == 1 { Edit::Replace(reference.into()) } else { Edit::Keep })
        })?;
        Ok(self.request(edited.as_deref().unwrap_or(&self.message)))
    }

    /// This gateway call for the build that `metadata` names, with the ids of earlier answers replaced by new
    /// ones. `None` over 4 GiB.
    pub(super) fn in_build(&self, metadata: (HeaderName, HeaderValue), ids: &[(String, String)]) -> Option<Request<RequestBody>> {
        let mut message = self.message.to_vec();
        ids.iter().for_each(|(old, new)| replace(&mut message, old.as_bytes(), new.as_bytes()));
        let mut request = self.request(&message)?;
        request.headers_mut().insert(metadata.0, metadata.1);
        Some(request)
    }

    fn request(&self, message: &[u8]) -> Option<Request<RequestBody>> {
        Some(RequestBody::whole(self.uri.clone(), self.headers.clone(), message::frame(message)?))
    }

    /// Whether it is the client's last call of the build.
    pub(super) fn is_return(&self) -> bool {
        SolveCall::of(self.uri.path()) == Some(SolveCall::Return)
    }

    /// Whether this `Control/Solve` has what is to be built (`Definition`, 2) or who knows it (`Frontend`, 6).
    pub(super) fn says_what_to_build(&self) -> bool {
        [2, 6].iter().any(|field| wire::last(&self.message, *field).is_ok_and(|value| !value.is_empty()))
    }

    /// What it takes to keep it.
    pub(super) fn bytes(&self) -> usize {
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

/// The ids in a `SolveResponse`: that of its `ref` (1), and those of its `Result` (3), which has a single one
/// (1 or 3) or a map of them (2 or 4), and attestations (12).
fn result_ids(answer: &[u8]) -> Result<ResultIds, Malformed> {
    let mut found = ResultIds::new();
    let mut add = |place: String, id: &[u8]| {
        let id = std::str::from_utf8(id).map_err(|_| Malformed)?;
        if !id.is_empty() {
            found.insert(place, id.to_owned());
        }
        Ok(())
    };
    add("ref".to_owned(), wire::last(answer, 1)?)?;
    for field in wire::fields(wire::last(answer, 3)?) {
        let Field { number, payload: Some(payload), .. } = field? else { continue };
        match number {
            1 => add("result".to_owned(), payload)?,
            3 => add("result".to_owned(), wire::last(payload, 1)?)?,
            2 | 4 => {
                for entry in wire::fields(payload) {
                    let Some(entry) = entry?.payload else { continue };
                    let key = String::from_utf8_lossy(wire::last(entry, 1)?);
                    let value = wire::last(entry, 2)?;
                    add(format!("result {key}"), if number == 2 { value } else { wire::last(value, 1)? })?;
                }
            }
            12 => {
                let key = String::from_utf8_lossy(wire::last(payload, 1)?).into_owned();
                for (index, attestation) in wire::fields(wire::last(payload, 2)?).enumerate() {
                    let Some(attestation) = attestation?.payload else { continue };
                    add(format!("attestation {key} {index}"), wire::last(wire::last(attestation, 3)?, 1)?)?;
                }
            }
            _ => {}
        }
    }
    Ok(found)
}
