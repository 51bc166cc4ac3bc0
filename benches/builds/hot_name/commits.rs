//! The commits that are built: they have one Dockerfile, and each has a source of its own.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use remora_test_support::tools::tool;

/// RUN steps below the source: every commit shares them.
pub(crate) const SHARED_STEPS: u32 = 3;
/// RUN steps on top of the source.
pub(crate) const OWN_STEPS: u32 = 5;
/// Layers that no other commit has: the source, the steps on top of it, and the last one, which the nonce decides.
pub(crate) const OWN_LAYERS: u32 = OWN_STEPS + 2;

/// One state of the source.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Commit {
    pub(crate) branch: u32,
    /// Its number within its branch, from 0 on.
    pub(crate) number: u32,
}

impl Commit {
    /// The commit of one export, where several branches export in turn.
    pub(crate) fn of_export(export: u32, branches: u32) -> Self {
        Self { branch: export % branches, number: export / branches }
    }

    /// The content of the source. No two commits have the same.
    pub(crate) fn source(self) -> String {
        // A builder takes files of one size and one time for the same, so each branch has a size of its own.
        let padding = ".".repeat(self.branch as usize);
        format!("branch {}, commit {}{padding}\n", self.branch, self.number)
    }

    /// Makes the context of its build.
    pub(crate) fn make_context(self, dir: &Path) -> Result<PathBuf> {
        fs::create_dir_all(dir.join("src"))?;
        fs::copy(tool("busybox"), dir.join("busybox")).context("busybox")?;
        fs::write(dir.join("src/main"), self.source())?;
        let mut file = "FROM scratch\nCOPY busybox /bin/busybox\nSHELL [\"/bin/busybox\", \"sh\", \"-c\"]\n".to_owned();
        let mut steps = |place: &str, count: u32, last: &str| {
            (0..count).try_for_each(|step| writeln!(file, "RUN busybox head -c 64 /dev/urandom >/{place}-{step}"))?;
            file.write_str(last)
        };
        steps("shared", SHARED_STEPS, "COPY src /src\n")?;
        steps("own", OWN_STEPS, "ARG NONCE\nRUN echo \"$NONCE\" >/end\n")?;
        fs::write(dir.join("Dockerfile"), file)?;
        Ok(dir.to_path_buf())
    }
}
