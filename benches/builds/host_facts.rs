//! Where the numbers were taken: machine and versions.

use std::fs;
use std::path::Path;
use std::process::Command;

use remora_test_support::tools::tool;
use serde::Serialize;

#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    pub(crate) cpu: String,
    pub(crate) cores: usize,
    pub(crate) memory_gib: u64,
    pub(crate) kernel: String,
    pub(crate) buildkitd: String,
    pub(crate) minio: String,
    pub(crate) remora: String,
}

impl Machine {
    pub(crate) fn look(remora: &Path) -> Self {
        let field = |file: &str, name: &str| {
            let text = fs::read_to_string(file).unwrap_or_default();
            let value =
                text.lines().find_map(|line| line.strip_prefix(name)?.trim_start().strip_prefix(':').map(str::trim).map(str::to_owned));
            value.unwrap_or_else(|| "unknown".to_owned())
        };
        let kib = field("/proc/meminfo", "MemTotal").trim_end_matches(" kB").parse::<u64>().unwrap_or_default();
        Self {
            cpu: field("/proc/cpuinfo", "model name"),
            cores: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
            memory_gib: kib.div_ceil(1 << 20),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned(),
            buildkitd: version(Command::new(tool("buildkitd")), 2),
            minio: version(Command::new(tool("minio")), 2),
            remora: version(Command::new(remora), 1),
        }
    }

    pub(crate) fn line(&self) -> String {
        let Self { cpu, cores, memory_gib, kernel, buildkitd, minio, remora } = self;
        format!("{cpu}, {cores} cores, {memory_gib} GiB; Linux {kernel}; buildkitd {buildkitd}; MinIO {minio}; remora {remora}")
    }
}

/// One word of the first line that `--version` prints.
fn version(mut command: Command, word: usize) -> String {
    let output = command.arg("--version").output().map(|output| output.stdout).unwrap_or_default();
    let text = String::from_utf8_lossy(&output).into_owned();
    text.lines().next().and_then(|line| line.split_whitespace().nth(word)).unwrap_or("unknown").to_owned()
}
