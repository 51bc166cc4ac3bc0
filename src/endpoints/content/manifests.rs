//! `remora.cache.v1.Manifests`.

use tonic::{Request, Response, Status};

use super::calls::{Calls, bytes, timestamp};
use super::status::from_error;
use crate::cache::{Condition, ManifestInfo};
use crate::metrics::Kind;
use crate::proto::cache as api;
use crate::types::{ETag, Invalid, ManifestName};

/// What one page of a listing holds at most.
const MAX_PAGE: usize = 1000;

/// The service.
#[derive(Debug)]
pub(super) struct Service(pub(super) Calls);

#[tonic::async_trait]
impl api::manifests_server::Manifests for Service {
    async fn get(&self, request: Request<api::GetRequest>) -> Result<Response<api::GetResponse>, Status> {
        let call = self.0.begin("GetManifest");
        let got = async {
            let grant = self.0.grant(&request)?;
            let name = parse_name(&request.get_ref().name)?;
            let found = self.0.cache().manifests().import(&grant, &name).await;
            call.lookup(Kind::Manifest, &found);
            let manifest = found.map_err(|error| from_error(&error))?;
            call.sent(manifest.bytes.len());
            let size = manifest.bytes.len() as u64;
            let info = ManifestInfo { name, size, etag: manifest.etag, modified: manifest.modified };
            Ok(Response::new(api::GetResponse { info: Some(info_message(&info)), document: manifest.bytes }))
        }
        .await;
        call.end(got)
    }

    async fn put(&self, request: Request<api::PutRequest>) -> Result<Response<api::PutResponse>, Status> {
        let call = self.0.begin("PutManifest");
        let put = async {
            let grant = self.0.grant(&request)?;
            let request = request.into_inner();
            let name = parse_name(&request.name)?;
            let condition = match (request.if_absent, request.if_match.as_str()) {
                (false, "") => Condition::None,
                (true, "") => Condition::Absent,
                (false, etag) => Condition::Matches(ETag::new(etag)),
                (true, _) => return Err(Status::invalid_argument("if_match and if_absent exclude each other")),
            };
            call.received(request.document.len());
            let etag = self.0.cache().manifests().publish(&grant, &name, request.document, condition).await;
            Ok(Response::new(api::PutResponse { etag: etag.map_err(|error| from_error(&error))?.to_string() }))
        }
        .await;
        call.end(put)
    }

    async fn list(&self, request: Request<api::ListRequest>) -> Result<Response<api::ListResponse>, Status> {
        let call = self.0.begin("ListManifests");
        let listed = async {
            let grant = self.0.grant(&request)?;
            let request = request.into_inner();
            let limit = match usize::try_from(request.limit) {
                Ok(0) => MAX_PAGE,
                Ok(limit) => limit.min(MAX_PAGE),
                Err(_) => return Err(Status::invalid_argument(format!("limit {} is negative", request.limit))),
            };
            let after = (!request.after.is_empty()).then_some(request.after.as_str());
            let listed = self.0.cache().manifests().list(&grant, after, limit).await;
            let (manifests, more) = listed.map_err(|error| from_error(&error))?;
            Ok(Response::new(api::ListResponse { manifests: manifests.iter().map(info_message).collect(), more }))
        }
        .await;
        call.end(listed)
    }

    async fn delete(&self, request: Request<api::DeleteRequest>) -> Result<Response<api::DeleteResponse>, Status> {
        let call = self.0.begin("DeleteManifest");
        let deleted = async {
            let grant = self.0.grant(&request)?;
            let name = parse_name(&request.get_ref().name)?;
            self.0.cache().manifests().delete(&grant, &name).await.map_err(|error| from_error(&error))?;
            Ok(Response::new(api::DeleteResponse {}))
        }
        .await;
        call.end(deleted)
    }
}

fn parse_name(text: &str) -> Result<ManifestName, Status> {
    text.parse().map_err(|invalid: Invalid| Status::invalid_argument(invalid.to_string()))
}

fn info_message(info: &ManifestInfo) -> api::ManifestInfo {
    api::ManifestInfo {
        name: info.name.to_string(),
        size: bytes(info.size),
        etag: info.etag.to_string(),
        modified_at: Some(timestamp(info.modified)),
    }
}
