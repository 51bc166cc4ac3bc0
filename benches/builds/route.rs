//! What is between buildctl and S3 in one run: the shaper, remora, and the cache options that lead there.

use std::path::PathBuf;

use anyhow::Result;
use remora_test_support::minio::{ACCESS_KEY_ID, REGION, SECRET_ACCESS_KEY};

use crate::daemons::{Buildkitd, Remora, Settings, Stored};
use crate::shaper::{Network, Shaper};
use crate::stage::Stage;
use crate::workloads::{Contestant, Via};

/// The cache's name in its bucket.
const NAME: &str = "bench";
/// The key of the cache's manifest in its bucket.
pub(crate) const MANIFEST: &str = "manifests/bench";

/// Where one run has its cache.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) bucket: String,
    pub(crate) folder: PathBuf,
}

/// The parts of one run.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) shaper: Option<Shaper>,
    pub(crate) remora: Option<Remora>,
    /// Where buildctl connects.
    pub(crate) address: String,
    /// The address that native clients use as S3.
    endpoint: String,
}

impl Route {
    pub(crate) fn start(stage: &Stage, network: Network, contestant: &Contestant, place: &Place, builder: &Buildkitd) -> Result<Self> {
        let minio = stage.minio.address();
        let shaper = contestant.shaped.then(|| Shaper::start(minio, network)).transpose()?;
        let endpoint = shaper.as_ref().map_or(minio, Shaper::address);
        let buildkitd = builder.address();
        let remora = contestant.via.transport().map(|transport| {
            let settings = Settings {
                program: &stage.remora,
                buildkitd: &buildkitd,
                transport,
                store: Stored::S3 { endpoint, bucket: &place.bucket },
                configuration: contestant.settings,
            };
            Remora::start(&stage.dir.join("remora"), &settings)
        });
        let remora = remora.transpose()?;
        let address = remora.as_ref().map_or(buildkitd, Remora::address);
        Ok(Self { shaper, remora, address, endpoint: endpoint.to_string() })
    }

    /// The cache options of a build that exports everything.
    pub(crate) fn export_attrs(&self, via: Via, place: &Place) -> Vec<String> {
        self.attrs(via, place, "dest").into_iter().map(|attrs| attrs + ",mode=max").collect()
    }

    /// The cache options of a build. `end` is `src` or `dest`.
    pub(crate) fn attrs(&self, via: Via, place: &Place, end: &str) -> Vec<String> {
        match via {
            Via::Direct | Via::Control => vec![],
            Via::Native => vec![native(&place.bucket, &self.endpoint)],
            Via::Local => vec![format!("type=local,{end}={}", place.folder.display())],
            Via::Relay | Via::Session => vec![format!("type=s3,region={REGION},bucket={},name={NAME}", place.bucket)],
        }
    }
}

/// What makes BuildKit's own client use the server at `endpoint`.
pub(crate) fn native(bucket: &str, endpoint: &str) -> String {
    format!(
        "type=s3,region={REGION},bucket={bucket},name={NAME},endpoint_url=http://{endpoint},use_path_style=true,\
         access_key_id={ACCESS_KEY_ID},secret_access_key={SECRET_ACCESS_KEY}"
    )
}
