//! One build of one contestant, timed.

use std::path::Path;

use anyhow::Result;

use crate::buildctl::{Build, Built};
use crate::daemons::Buildkitd;
use crate::processes::{self, Daemon, children_cpu, own_cpu};
use crate::route::{Place, Route};
use crate::sample::{Cpu, Sample};
use crate::shaper::{Network, Shaper};
use crate::stage::Stage;
use crate::workloads::Contestant;

/// What an empty builder is to do.
#[derive(Debug)]
pub(crate) struct Task<'a> {
    pub(crate) context: &'a Path,
    pub(crate) nonce: &'a str,
    /// Whether it exports to the cache that it imports.
    pub(crate) exports: bool,
}

impl<'a> Task<'a> {
    /// A task that imports and does not export.
    pub(crate) fn import(context: &'a Path, nonce: &'a str) -> Self {
        Self { context, nonce, exports: false }
    }
}

/// Runs a build on an empty builder.
pub(crate) fn cold(stage: &Stage, network: Network, contestant: &Contestant, place: &Place, task: &Task<'_>) -> Result<(Sample, Built)> {
    let builder = Buildkitd::start(&stage.dir.join("cold"))?;
    let route = Route::start(stage, network, contestant, place, &builder)?;
    let attrs = route.attrs(contestant.via, place, "src");
    let cache_to = if task.exports { route.export_attrs(contestant.via, place) } else { vec![] };
    let build = Build { address: &route.address, context: task.context, nonce: task.nonce, cache_to, cache_from: attrs };
    if contestant.primed {
        Build { cache_to: vec![], cache_from: build.cache_from.clone(), ..build }.run(&stage.dir.join("progress"))?;
        drop(builder);
        let builder = Buildkitd::start(&stage.dir.join("cold"))?;
        rustix::fs::sync();
        return measure(stage, &build, &builder, &route);
    }
    measure(stage, &build, &builder, &route)
}

/// Runs a build, and measures what everything took that had a part in it.
pub(crate) fn measure(stage: &Stage, build: &Build<'_>, builder: &Buildkitd, route: &Route) -> Result<(Sample, Built)> {
    let remora = route.remora.as_ref().map(|remora| &remora.daemon);
    builder.daemon.forget_peak()?;
    remora.map(Daemon::forget_peak).transpose()?;
    let traffic = route.shaper.as_ref().map(Shaper::traffic);
    let before = cpu(stage, builder, remora)?;
    let built = build.run(&stage.dir.join("progress"))?;
    let after = cpu(stage, builder, remora)?;
    let sample = Sample {
        wall_seconds: built.wall.as_secs_f64(),
        cpu_seconds: after.since(before),
        buildkitd_peak_rss: builder.daemon.peak_rss()?,
        remora_peak_rss: remora.map(Daemon::peak_rss).transpose()?,
        upstream: route.shaper.as_ref().map(Shaper::traffic).zip(traffic).map(|(after, before)| after.since(&before)),
    };
    Ok((sample, built))
}

fn cpu(stage: &Stage, builder: &Buildkitd, remora: Option<&Daemon>) -> Result<Cpu> {
    Ok(Cpu {
        buildkitd: builder.daemon.cpu()?,
        remora: remora.map(Daemon::cpu).transpose()?,
        minio: processes::cpu(stage.minio.pid())?,
        buildctl: children_cpu()?,
        shaper: own_cpu()?,
    })
}
