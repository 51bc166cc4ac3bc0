//! What a remora occupies: counted before and after a case, it shows what was leaked.

use std::path::{Path, PathBuf};

use super::process::files_below;

/// Tasks, open files and files in the spool.
#[derive(Debug)]
pub struct Footprint {
    tasks: u64,
    /// Where each file descriptor leads.
    open: Vec<String>,
    spool: Vec<PathBuf>,
}

impl Footprint {
    pub fn of(pid: u32, spool: &Path, tasks: u64) -> Self {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("remora runs").flatten();
        let open = descriptors.filter_map(|descriptor| Some(std::fs::read_link(descriptor.path()).ok()?.display().to_string()));
        Self { tasks, open: open.collect(), spool: files_below(spool) }
    }

    /// Whether nothing has come to it since `before`.
    pub fn is_no_more_than(&self, before: &Self) -> bool {
        self.tasks <= before.tasks && self.open.len() <= before.open.len() && self.spool.len() <= before.spool.len()
    }
}
