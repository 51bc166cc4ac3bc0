//! What one build took.

use serde::Serialize;

use crate::shaper::Traffic;

/// One build of one contestant.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Sample {
    pub(crate) wall_seconds: f64,
    pub(crate) cpu_seconds: Cpu,
    pub(crate) buildkitd_peak_rss: u64,
    pub(crate) remora_peak_rss: Option<u64>,
    /// The traffic between S3 and its client, which the shaper counts.
    pub(crate) upstream: Option<Traffic>,
}

/// CPU time of everything that takes part.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Cpu {
    pub(crate) buildkitd: f64,
    pub(crate) remora: Option<f64>,
    pub(crate) minio: f64,
    pub(crate) buildctl: f64,
    pub(crate) shaper: f64,
}

impl Cpu {
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            buildkitd: self.buildkitd - before.buildkitd,
            remora: self.remora.zip(before.remora).map(|(after, before)| after - before),
            minio: self.minio - before.minio,
            buildctl: self.buildctl - before.buildctl,
            shaper: self.shaper - before.shaper,
        }
    }
}
