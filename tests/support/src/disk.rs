//! Disks that are full or cannot be written.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

use super::tools::tool;

/// A small file system of its own. Needs root.
#[derive(Debug)]
pub struct Tmpfs(TempDir);

impl Tmpfs {
    /// Mounts one of this `size`, as `mount` takes it.
    pub fn mount(size: &str) -> Self {
        assert!(rustix::process::geteuid().is_root(), "this test mounts a file system: run it as root");
        let tmpfs = Self(TempDir::new().unwrap());
        run(Command::new(tool("mount")).args(["-t", "tmpfs", "-o", &format!("size={size}"), "remora-test"]).arg(tmpfs.0.path()));
        tmpfs
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        self.0.path()
    }

    /// Nothing can be written to it from now on.
    pub fn make_read_only(&self) {
        assert!(self.try_make_read_only(), "{:?} cannot be made read-only", self.path());
    }

    /// As [`Self::make_read_only`], but false while a file of it is open for writing.
    #[must_use]
    pub fn try_make_read_only(&self) -> bool {
        Command::new(tool("mount")).args(["-o", "remount,ro"]).arg(self.path()).status().unwrap().success()
    }
}

impl Drop for Tmpfs {
    fn drop(&mut self) {
        let _ = Command::new(tool("umount")).arg("--lazy").arg(self.0.path()).status();
    }
}

fn run(command: &mut Command) {
    assert!(command.status().unwrap().success(), "{command:?}");
}
