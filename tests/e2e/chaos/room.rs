//! A spool that has no room for what a build exports.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;

use super::rig::{BUCKET, Contestant, Rig};
use super::verdict::{Scale, Verdict};
use crate::support::context::Context;
use crate::support::disk::Tmpfs;
use crate::support::faults::seed;

const LARGE: &str = "RUN busybox dd if=/dev/urandom of=/large bs=1M count=24\n";
const SMALL: &str = "RUN busybox dd if=/dev/urandom of=/small bs=1k count=100\n";
/// So little memory that what relay receives goes through the spool.
const MEMORY: &str = "[transfer]\nupload_memory = \"1MiB\"\n";
const FILLER: &str = "of-somebody-else";
const DROPPED: &str = "remora_exports_dropped_total";

pub fn less_than_a_layer(contestant: Contestant, _: Scale) -> Verdict {
    if contestant == Contestant::Native {
        return Verdict::noted("there is no spool");
    }
    let rig = Rig::with(contestant, seed(), |settings, _| {
        settings.configuration += &format!("[limits]\nmax_spool_bytes = \"4MiB\"\n{MEMORY}");
    });
    without_room(rig, || ())
}

pub fn none_on_the_disk(contestant: Contestant, _: Scale) -> Verdict {
    if contestant == Contestant::Native {
        return Verdict::noted("there is no spool");
    }
    let disk = Tmpfs::mount("8m");
    let rig = Rig::with(contestant, seed(), |settings, _| {
        settings.configuration += MEMORY;
        settings.data_dir = Some(disk.path().join("data"));
    });
    fill(disk.path());
    without_room(rig, || std::fs::remove_file(disk.path().join(FILLER)).expect("the filler"))
}

/// Takes all room that is left.
fn fill(disk: &Path) {
    let mut filler = File::create(disk.join(FILLER)).expect("filler");
    while filler.write_all(&[1; 4096]).is_ok() {}
}

/// Runs a build whose export has no room and, after `room_is_made`, one whose export has.
fn without_room(mut rig: Rig, room_is_made: impl FnOnce()) -> Verdict {
    let mut verdict = Verdict::default();
    verdict.add(rig.build(&rig.cached(&Context::after_base(LARGE), "app")));
    let published = rig.minio().objects(BUCKET).into_keys().filter(|key| key.starts_with("manifests/")).count();
    verdict.check(published == 0, || "a manifest is published".to_owned());
    let dropped = rig.remora().metric(DROPPED);
    let log = rig.remora().log();
    verdict.check(dropped == 1, || format!("{dropped} exports are counted as dropped"));
    verdict.check(log.contains("is dropped, and the build goes on"), || "the log says nothing".to_owned());
    let spool = rig.remora().spool();
    verdict.check(spool.is_empty(), || format!("the spool keeps {spool:?}"));
    room_is_made();
    let small = Context::after_base(SMALL);
    verdict.add(rig.build(&rig.cached(&small, "after")));
    rig.buildkitd.prune();
    if let Some(outcome) = verdict.add(rig.build(&rig.cached(&small, "after"))) {
        verdict.check(outcome.steps.values().all(|step| step.cached), || "the cache does not come back".to_owned());
    }
    if let Err(why) = rig.verify() {
        verdict.check(false, || why);
    }
    verdict
}
