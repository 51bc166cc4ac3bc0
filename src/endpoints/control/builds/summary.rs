//! The line that a build leaves in the log.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::time::Duration;

use tonic::Code;

use crate::auth::{GrantRequest, Purpose};
use crate::types::{ManifestName, Usage};

/// What the line says beyond the counts.
#[derive(Debug, Default)]
pub(super) struct BuildRecord {
    imported: BTreeSet<ManifestName>,
    exported: BTreeSet<ManifestName>,
    code: Option<Code>,
}

impl BuildRecord {
    /// The build uses these manifests.
    pub(super) fn record_use(&mut self, request: &GrantRequest<'_>) {
        let names = match request.purpose {
            Purpose::Import => &mut self.imported,
            Purpose::Export => &mut self.exported,
        };
        names.extend(request.names.iter().cloned());
    }

    /// The build ended with this code.
    pub(super) fn record_code(&mut self, code: Code) {
        self.code = Some(code);
    }
}

/// `imported app: 12 layers offered, 3 read (340.0 MiB), exported app: 2 new layers (12.0 MiB), 10 reused; ok in 12.3s`
pub(super) fn summary(record: &BuildRecord, usage: &Usage, took: Duration) -> String {
    let mut parts = Vec::new();
    if !record.imported.is_empty() {
        let found = match usage.manifests_read() {
            0 => "nothing there".to_owned(),
            _ => format!("{} layers offered, {} read ({})", usage.layers_offered(), usage.blobs_served(), Size(usage.bytes_served())),
        };
        parts.push(format!("imported {}: {found}", joined(&record.imported)));
    }
    if !record.exported.is_empty() {
        let new = usage.blobs_written();
        let bytes = Size(usage.bytes_written());
        let reused = usage.blobs_reused();
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
        let usage = Usage::default();
        let mut record = BuildRecord::default();
        let line = |record: &BuildRecord, usage: &Usage| summary(record, usage, Duration::from_millis(12_345));
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
