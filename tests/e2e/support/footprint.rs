//! What a remora occupies: counted before and after a case, it shows what was leaked.

use std::path::{Path, PathBuf};
use std::time::Duration;

use super::process::files_below;

/// Tasks, open files, files in the spool; and what it has used of memory and CPU.
#[derive(Debug)]
pub struct Footprint {
    tasks: u64,
    resident_mib: u64,
    /// CPU time since its start.
    cpu: Duration,
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
    /// CPU time since the start.
    pub cpu: Duration,
    pub spool_files: usize,
}

impl Footprint {
    pub fn of(pid: u32, spool: &Path, tasks: u64) -> Self {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("remora runs").flatten();
        let open = descriptors.filter_map(|descriptor| Some(std::fs::read_link(descriptor.path()).ok()?.display().to_string()));
        Self { tasks, resident_mib: resident_kib(pid) >> 10, cpu: cpu(pid), open: open.collect(), spool: files_below(spool) }
    }

    /// How much of each there is.
    pub fn sizes(&self) -> Sizes {
        let Self { tasks, resident_mib, cpu, .. } = *self;
        Sizes { descriptors: self.open.len() as u64, tasks, resident_mib, cpu, spool_files: self.spool.len() }
    }

    /// Whether none of the first three has grown since `before`.
    pub fn is_no_more_than(&self, before: &Self) -> bool {
        self.tasks <= before.tasks && self.open.len() <= before.open.len() && self.spool.len() <= before.spool.len()
    }
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("remora runs");
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")?.strip_suffix(" kB"));
    resident.and_then(|kib| kib.trim().parse().ok()).expect("VmRSS")
}

/// As Linux counts it for every program: in hundredths of a second, in user mode and in the kernel.
fn cpu(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("remora runs");
    // The second field is the name, in brackets. The two times are the fields 14 and 15.
    let (_, fields) = stat.rsplit_once(')').expect("a name");
    let ticks: u64 = fields.split_whitespace().skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("a number")).sum();
    Duration::from_millis(ticks * 10)
}
