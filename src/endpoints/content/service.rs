//! `containerd.services.content.v1.Content`.
//!
//! Semantics and status codes are those of containerd v2.4 (`plugins/services/content/contentserver`,
//! `plugins/content/local`); where remora is stricter, the method says so.

use std::collections::BTreeMap;
use std::pin::Pin;

use futures_util::{Stream, stream};
use tonic::{Request, Response, Status, Streaming};

use super::calls::{Call, Calls, bytes, parse_digest, timestamp};
use super::filters::Filters;
use super::status::from_error;
use super::{read, write};
use crate::cache::{Cache, IngestStatus, Labelled};
use crate::metrics::Kind;
use crate::proto::content as api;
use crate::types::{Digest, Grant};

/// Blobs that are looked up at once for a listing, and infos that one message carries: as containerd.
const PAGE: usize = 100;

/// The service.
#[derive(Debug)]
pub(super) struct Service(pub(super) Calls);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl api::content_server::Content for Service {
    type ListStream = Answers<api::ListContentResponse>;
    type ReadStream = Answers<api::ReadContentResponse>;
    type WriteStream = Answers<api::WriteContentResponse>;

    async fn info(&self, request: Request<api::InfoRequest>) -> Result<Response<api::InfoResponse>, Status> {
        let call = self.0.begin("Info");
        let info = async {
            let grant = self.0.grant(&request)?;
            let digest = parse_digest(&request.get_ref().digest)?;
            let cache = self.0.cache();
            let found = cache.blobs().promised(&grant, &digest, || cache.labels().of(&grant, &digest)).await;
            call.lookup(Kind::Blob, &found);
            let info = info_message(found.map_err(|error| from_error(&error))?);
            Ok(Response::new(api::InfoResponse { info: Some(info) }))
        }
        .await;
        call.end(info)
    }

    async fn update(&self, request: Request<api::UpdateRequest>) -> Result<Response<api::UpdateResponse>, Status> {
        let call = self.0.begin("Update");
        let updated = async {
            let grant = self.0.grant(&request)?;
            let request = request.into_inner();
            let info = request.info.ok_or_else(|| Status::invalid_argument("no info"))?;
            let digest = parse_digest(&info.digest)?;
            let change = label_change(info.labels.into_iter().collect(), request.update_mask.unwrap_or_default().paths)?;
            let updated = self.0.cache().labels().update(&grant, &digest, change).await.map_err(|error| from_error(&error))?;
            Ok(Response::new(api::UpdateResponse { info: Some(info_message(updated)) }))
        }
        .await;
        call.end(updated)
    }

    async fn list(&self, request: Request<api::ListContentRequest>) -> Result<Response<Self::ListStream>, Status> {
        let call = self.0.begin("List");
        let checked = || -> Result<_, Status> {
            Ok((self.0.grant(&request)?, Filters::parse(&request.get_ref().filters).map_err(Status::invalid_argument)?))
        };
        match checked() {
            Err(status) => call.end(Err(status)),
            Ok((grant, filters)) => {
                let listing = Listing { cache: self.0.cache().clone(), grant, filters, call, after: None, ended: false };
                Ok(Response::new(Box::pin(listing.messages())))
            }
        }
    }

    async fn delete(&self, request: Request<api::DeleteContentRequest>) -> Result<Response<()>, Status> {
        let call = self.0.begin("Delete");
        let deleted = async {
            let grant = self.0.grant(&request)?;
            let digest = parse_digest(&request.get_ref().digest)?;
            self.0.cache().blobs().delete(&grant, &digest).await.map_err(|error| from_error(&error))?;
            Ok(Response::new(()))
        }
        .await;
        call.end(deleted)
    }

    /// Stricter than containerd with a negative offset or size, which is an error here.
    async fn read(&self, request: Request<api::ReadContentRequest>) -> Result<Response<Self::ReadStream>, Status> {
        let call = self.0.begin("Read");
        let opened = async {
            let grant = self.0.grant(&request)?;
            let request = request.get_ref();
            let digest = parse_digest(&request.digest)?;
            let (Ok(offset), Ok(size)) = (u64::try_from(request.offset), u64::try_from(request.size)) else {
                let (offset, size) = (request.offset, request.size);
                return Err(Status::out_of_range(format!("offset {offset}, size {size}: neither may be negative")));
            };
            let opened = read::open(&self.0, &grant, &digest, offset, size).await;
            call.lookup(Kind::Blob, &opened);
            opened.map_err(|error| from_error(&error))
        }
        .await;
        match opened {
            Ok(part) => Ok(Response::new(Box::pin(read::messages(part, call)))),
            Err(status) => call.end(Err(status)),
        }
    }

    async fn status(&self, request: Request<api::StatusRequest>) -> Result<Response<api::StatusResponse>, Status> {
        let call = self.0.begin("Status");
        let status = || {
            let grant = self.0.grant(&request)?;
            let status = self.0.cache().ingests().status(&grant, &request.get_ref().r#ref).map_err(|error| from_error(&error))?;
            Ok(Response::new(api::StatusResponse { status: Some(status_message(status)) }))
        };
        call.end(status())
    }

    async fn list_statuses(&self, request: Request<api::ListStatusesRequest>) -> Result<Response<api::ListStatusesResponse>, Status> {
        let call = self.0.begin("ListStatuses");
        let statuses = || {
            let grant = self.0.grant(&request)?;
            let filters = Filters::parse(&request.get_ref().filters).map_err(Status::invalid_argument)?;
            let all = self.0.cache().ingests().statuses(&grant).map_err(|error| from_error(&error))?;
            let matching = all.into_iter().filter(|status| filters.match_field(|path| status_field(status, path)));
            Ok(Response::new(api::ListStatusesResponse { statuses: matching.map(status_message).collect() }))
        };
        call.end(statuses())
    }

    async fn write(&self, request: Request<Streaming<api::WriteContentRequest>>) -> Result<Response<Self::WriteStream>, Status> {
        let call = self.0.begin("Write");
        match self.0.grant(&request) {
            Ok(grant) => Ok(Response::new(Box::pin(write::answers(&self.0, grant, request.into_inner(), call)))),
            Err(status) => call.end(Err(status)),
        }
    }

    async fn abort(&self, request: Request<api::AbortRequest>) -> Result<Response<()>, Status> {
        let call = self.0.begin("Abort");
        let aborted = async {
            let grant = self.0.grant(&request)?;
            self.0.cache().ingests().abort(&grant, &request.get_ref().r#ref).await.map_err(|error| from_error(&error))?;
            Ok(Response::new(()))
        }
        .await;
        call.end(aborted)
    }
}

/// A listing of blobs under way: one page of the store in memory at a time.
struct Listing {
    cache: Cache,
    grant: Grant,
    filters: Filters,
    call: Call,
    after: Option<Digest>,
    ended: bool,
}

impl Listing {
    fn messages(self) -> impl Stream<Item = Result<api::ListContentResponse, Status>> + Send {
        stream::try_unfold(self, |mut listing| async move {
            match listing.next().await {
                Ok(info) if info.is_empty() => Ok(None),
                Ok(info) => Ok(Some((api::ListContentResponse { info }, listing))),
                Err(status) => {
                    listing.call.failed(&status);
                    Err(status)
                }
            }
        })
    }

    /// The next blobs that pass; none at the end.
    async fn next(&mut self) -> Result<Vec<api::Info>, Status> {
        while !self.ended {
            let listed = self.cache.labels().list(&self.grant, self.after.as_ref(), PAGE).await;
            let (blobs, more) = listed.map_err(|error| from_error(&error))?;
            self.ended = !more;
            self.after = blobs.last().map(|blob| blob.digest);
            let passing: Vec<_> = blobs.into_iter().filter(|blob| self.filters.match_field(|path| blob_field(blob, path))).collect();
            if !passing.is_empty() {
                return Ok(passing.into_iter().map(info_message).collect());
            }
        }
        Ok(Vec::new())
    }
}

/// What an Update does to a blob's labels: those that `paths` name get the value given, or none.
fn label_change(
    given: BTreeMap<String, String>,
    paths: Vec<String>,
) -> Result<impl Fn(&mut BTreeMap<String, String>) + Send + Sync, Status> {
    if let Some(path) = paths.iter().find(|path| *path != "labels" && !path.starts_with("labels.")) {
        return Err(Status::invalid_argument(format!("update_mask {path:?}: only labels can be changed")));
    }
    Ok(move |labels: &mut BTreeMap<String, String>| {
        if paths.is_empty() {
            labels.clone_from(&given);
        }
        for path in &paths {
            match path.strip_prefix("labels.") {
                None => labels.clone_from(&given),
                Some(key) => match given.get(key) {
                    Some(value) => drop(labels.insert(key.to_owned(), value.clone())),
                    None => drop(labels.remove(key)),
                },
            }
        }
    })
}

/// The fields of a blob that containerd's filters know. (`size` is none of them.)
fn blob_field(blob: &Labelled, path: &[String]) -> Option<String> {
    match path.split_first()? {
        (field, _) if field == "digest" => Some(blob.digest.to_string()),
        (field, key) if field == "labels" => blob.labels.get(&key.join(".")).cloned(),
        _ => None,
    }
}

fn status_field(status: &IngestStatus, path: &[String]) -> Option<String> {
    (path.first()? == "ref").then(|| status.reference.clone())
}

fn info_message(blob: Labelled) -> api::Info {
    api::Info {
        digest: blob.digest.to_string(),
        size: bytes(blob.size),
        created_at: Some(timestamp(blob.created)),
        updated_at: Some(timestamp(blob.updated)),
        labels: blob.labels.into_iter().collect(),
    }
}

fn status_message(status: IngestStatus) -> api::Status {
    api::Status {
        started_at: Some(timestamp(status.started)),
        updated_at: Some(timestamp(status.updated)),
        r#ref: status.reference,
        offset: bytes(status.offset),
        total: bytes(status.total),
        expected: status.expected.map(|digest| digest.to_string()).unwrap_or_default(),
    }
}
