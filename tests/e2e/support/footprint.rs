//! What a remora occupies: counted before and after a case, it shows what was leaked.

use std::path::{Path, PathBuf};

use super::process::files_below;

/// Tasks, open files, files in the spool and resident memory.
#[derive(Debug)]
pub struct Footprint {
    tasks: u64,
    resident_mib: u64,
    /// Where each file descriptor leads.
    open: Vec<String>,
    spool: Vec<PathBuf>,
}

/// How much there is of what a footprint lists.
#[derive(Debug, Clone, Copy)]
pub struct Sizes {
    pub descriptors: u64,
    pub tasks: u64,
    pub resident_mib: u64,
    pub spool_files: usize,
}

impl Footprint {
    pub fn of(pid: u32, spool: &Path, tasks: u64) -> Self {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("remora runs").flatten();
        let open = descriptors.filter_map(|descriptor| Some(std::fs::read_link(descriptor.path()).ok()?.display().to_string()));
        Self { tasks, resident_mib: resident_kib(pid) >> 10, open: open.collect(), spool: files_below(spool) }
    }

    /// How much of each there is.
    pub fn sizes(&self) -> Sizes {
        let Self { tasks, resident_mib, .. } = *self;
        Sizes { descriptors: self.open.len() as u64, tasks, resident_mib, spool_files: self.spool.len() }
    }

    /// Whether nothing but memory has come to it since `before`.
    pub fn is_no_more_than(&self, before: &Self) -> bool {
        self.tasks <= before.tasks && self.open.len() <= before.open.len() && self.spool.len() <= before.spool.len()
    }
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("remora runs");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix(" kB"));
    resident.and_then(|kib| kib.trim().parse().ok()).expect("VmRSS")
}
