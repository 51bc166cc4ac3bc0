//! What a build's progress says of a cache that goes through its session.
//!
//! BuildKit takes such a cache for a directory of the client, and says so. The messages of
//! `Control/Status` are put right on their way to the client, one by one: the vertexes of those imports and
//! exports ([`vertex`]) get the names of the caches that they really are, and every other
//! byte stays. It is also how clients read the log of a build that is over, so the names of the last builds
//! are kept.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http::{Request, Response, header};
use http_body::{Body, Frame};
use hyper::body::Incoming;

use super::vertex;
use crate::endpoints::control::Control;
use crate::endpoints::control::admission::Arrival;
use crate::endpoints::control::builds::build::Build;
use crate::endpoints::control::grpc::message;
use crate::endpoints::control::grpc::message::Messages;
use crate::endpoints::control::grpc::wire;
use crate::endpoints::control::grpc::wire::{Edit, Malformed};
use crate::endpoints::control::options::attrs::Target;
use crate::endpoints::control::options::rewrite;
use crate::endpoints::control::options::rewrite::Entry;
use crate::endpoints::control::proxy::body::{BodyError, RequestBody, ResponseBody};
use crate::endpoints::control::proxy::call::Call;
use crate::endpoints::control::proxy::forward::{forward, read_whole, refuse};
use crate::endpoints::control::proxy::upstream::Upstream;
use crate::endpoints::control::replay::runner as replay;
use crate::types::Digest;

/// The path of the call.
pub(crate) const STATUS: &str = "/moby.buildkit.v1.Control/Status";
/// Builds whose names are kept.
const MAX_BUILDS: usize = 1000;
/// Names kept of one build.
const MAX_NAMES: usize = 100;
/// What the request asks of the encoding of the answer. Compressed messages could not be read here, and
/// buildkitd compresses where it is asked to or was sent a compressed message.
const ENCODING: [&str; 2] = ["grpc-encoding", "grpc-accept-encoding"];

/// The names that vertexes of builds get.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    builds: Mutex<VecDeque<Names>>,
}

#[derive(Debug)]
struct Names {
    reference: String,
    /// By the digest of the vertex.
    vertexes: HashMap<String, String>,
}

/// A `Status` stream of one build, with its vertexes named.
#[derive(Debug)]
pub(crate) struct Named {
    inner: ResponseBody,
    messages: Messages,
    /// What comes behind the bytes that were held back.
    last: Option<Frame<Bytes>>,
    progress: Arc<Progress>,
    reference: String,
    sequel: Sequel,
}

/// What may follow the messages.
enum Sequel {
    /// Nothing.
    No,
    /// What `replay` finds when they are over.
    Later(replay::Sequel),
    /// It is looked for; they ended with this.
    Now(replay::Sequel, Option<Frame<Bytes>>),
}

impl fmt::Debug for Sequel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::No => "No",
            Self::Later(_) => "Later",
            Self::Now(..) => "Now",
        })
    }
}

impl Progress {
    /// Names the vertexes of the cache entries that go through a build's session. `request` is the call that
    /// buildkitd gets, with the entries in it.
    pub(crate) fn name_entries(&self, build: &Build, entries: &[(Target, Option<Entry>)], request: &[u8]) -> Result<(), Malformed> {
        for (target, entry) in entries {
            let Some(entry) = entry.as_ref().filter(|entry| entry.kind == "local") else { continue };
            let Some(dest) = entry.attrs.get("dest") else {
                let name = format!("importing cache manifest from {target} through remora");
                self.name(build.reference(), &vertex::of_import(entry), name);
                continue;
            };
            if let Some(index) = rewrite::exports(request)?.iter().position(|export| export.get("dest") == Some(dest)) {
                let name = format!("exporting cache to {target} through remora");
                self.name(build.reference(), &vertex::of_export(build.session(), index), name);
            }
        }
        Ok(())
    }

    fn name(&self, reference: &str, vertex: &Digest, name: String) {
        let mut builds = self.builds();
        if !builds.iter().any(|build| build.reference == reference) {
            builds.truncate(MAX_BUILDS - 1);
            builds.push_front(Names { reference: reference.to_owned(), vertexes: HashMap::new() });
        }
        if let Some(build) = builds.iter_mut().find(|build| build.reference == reference && build.vertexes.len() < MAX_NAMES) {
            build.vertexes.insert(vertex.to_string(), name);
        }
    }

    /// A `StatusResponse` with the vertexes (1) of a build named. `None`: nothing to change.
    fn rename(&self, reference: &str, message: &[u8]) -> Option<Vec<u8>> {
        let builds = self.builds();
        let names = &builds.iter().find(|build| build.reference == reference)?.vertexes;
        let renamed = wire::edit(message, |field| match (field.number, field.payload) {
            (1, Some(vertex)) => Ok(rename_vertex(names, vertex)?.into()),
            _ => Ok::<_, Malformed>(Edit::Keep),
        });
        renamed.ok().flatten()
    }

    fn builds(&self) -> MutexGuard<'_, VecDeque<Names>> {
        self.builds.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A `Vertex`: its digest (1) and its name (3).
fn rename_vertex(names: &HashMap<String, String>, vertex: &[u8]) -> Result<Option<Vec<u8>>, Malformed> {
    let digest = wire::last(vertex, 1)?;
    let Some(name) = std::str::from_utf8(digest).ok().and_then(|digest| names.get(digest)) else { return Ok(None) };
    wire::edit(vertex, |field| Ok(if field.number == 3 { Edit::Replace(name.clone().into_bytes()) } else { Edit::Keep }))
}

impl Control {
    /// Serves a `Control/Status` call.
    ///
    /// # Errors
    /// The reset of this call by buildkitd.
    pub(crate) async fn status(
        &self,
        upstream: &Arc<Upstream>,
        request: Request<Incoming>,
        call: Call,
        client: Arrival,
    ) -> Result<Response<ResponseBody>, hyper::Error> {
        let (mut head, unary, call) = match read_whole(request, self.config.max_message_bytes, call).await {
            Ok(read) => read,
            Err(ended) => return ended,
        };
        // What is malformed here is refused by buildkitd.
        let reference = rewrite::reference(&unary.message).unwrap_or_default();
        if self.builds.find(&reference).is_none()
            && let Err(refusal) = self.admission.expects_builds(&client)
        {
            return Ok(refuse(call, refusal));
        }
        let body = message::frame(&unary.message).unwrap_or(unary.frame);
        for name in ENCODING {
            head.headers.remove(name);
        }
        head.headers.remove(header::CONTENT_LENGTH);
        let asked = head.clone();
        let request = Request::from_parts(head, RequestBody::Whole(body));
        let response = forward(upstream, request, self.config.connect_timeout, call).await?;
        let sequel = self.sequel(upstream, &asked, &reference, &response).map_or(Sequel::No, Sequel::Later);
        let progress = Arc::clone(&self.progress);
        let name = |inner| Named { inner, messages: Messages::default(), last: None, progress, reference, sequel };
        Ok(response.map(|inner| ResponseBody::Named(Box::new(name(inner)))))
    }
}

impl Body for Named {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Some(last) = this.last.take() {
            return Poll::Ready(Some(Ok(last)));
        }
        loop {
            if let Sequel::Now(sequel, ended) = &mut this.sequel {
                let found = ready!(sequel.as_mut().poll(cx));
                let ended = ended.take();
                this.sequel = Sequel::No;
                let Some((notice, inner)) = found else { return Poll::Ready(ended.map(Ok)) };
                this.inner = inner;
                return Poll::Ready(Some(Ok(Frame::data(notice))));
            }
            let trailers = match ready!(Pin::new(&mut this.inner).poll_frame(cx)) {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => {
                        let whole = this.messages.push(&data, |message| this.progress.rename(&this.reference, message));
                        if whole.is_empty() {
                            continue;
                        }
                        return Poll::Ready(Some(Ok(Frame::data(whole))));
                    }
                    Err(trailers) => Some(trailers),
                },
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => None,
            };
            let partial = this.messages.take_partial();
            if partial.is_empty() {
                if let Sequel::Later(sequel) = std::mem::replace(&mut this.sequel, Sequel::No) {
                    this.sequel = Sequel::Now(sequel, trailers);
                    continue;
                }
                return Poll::Ready(trailers.map(Ok));
            }
            this.last = trailers;
            return Poll::Ready(Some(Ok(Frame::data(partial))));
        }
    }

    fn is_end_stream(&self) -> bool {
        let over = self.last.is_none() && self.messages.is_empty() && self.inner.is_end_stream();
        over && matches!(self.sequel, Sequel::No)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vertex(digest: &str, name: &str) -> Vec<u8> {
        let mut vertex = vec![0x20, 0x01]; // cached
        wire::put(&mut vertex, 3, name.as_bytes());
        wire::put(&mut vertex, 1, digest.as_bytes());
        wire::put(&mut vertex, 900, b"new");
        let mut field = Vec::new();
        wire::put(&mut field, 1, &vertex);
        wire::put(&mut field, 3, b"a log line");
        field
    }

    #[test]
    fn only_the_vertexes_of_its_own_build_are_named() {
        let (progress, digest) = (Progress::default(), Digest::of(b"vertex"));
        progress.name("build", &digest, "exporting cache to s3://b/app through remora".to_owned());
        let digest = digest.to_string();
        let sent = [vertex("sha256:other", "RUN true"), vertex(&digest, "exporting cache to client directory")].concat();
        let wanted = [vertex("sha256:other", "RUN true"), vertex(&digest, "exporting cache to s3://b/app through remora")].concat();
        assert_eq!(progress.rename("build", &sent), Some(wanted));
        assert_eq!(progress.rename("another build", &sent), None);
        assert_eq!(progress.rename("build", &vertex("sha256:other", "RUN true")), None);
        assert_eq!(progress.rename("build", &sent[..sent.len() - 1]), None);
    }

    #[test]
    fn the_last_builds_are_kept() {
        let (progress, digest) = (Progress::default(), Digest::of(b"vertex"));
        let message = vertex(&digest.to_string(), "old");
        for build in 0..=MAX_BUILDS {
            progress.name(&build.to_string(), &digest, "new".to_owned());
        }
        assert_eq!(progress.rename("0", &message), None);
        assert!(progress.rename("1", &message).is_some());
        assert_eq!(progress.builds().len(), MAX_BUILDS);
    }
}
