//! Child processes: started so that none outlives the bench, and read through `/proc` for what they cost.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use remora_test_support::process;
use rustix::process::{Pid, Signal, kill_process};

/// How long a daemon may take to be ready.
const READY_LIMIT: Duration = Duration::from_secs(60);
/// `USER_HZ`, the unit of times in `/proc/PID/stat`: 100 on every Linux.
const TICKS_PER_SECOND: f64 = 100.0;

/// A command whose process dies with the thread that starts it.
pub(crate) fn leashed(program: impl AsRef<OsStr>) -> Command {
    undisturbed(process::leashed(program))
}

/// What the bench is called with must not change what it measures.
pub(crate) fn undisturbed(mut command: Command) -> Command {
    for variable in ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_ENDPOINT_URL"] {
        command.env_remove(variable);
    }
    command.env("AWS_EC2_METADATA_DISABLED", "true").stdin(Stdio::null());
    command
}

/// A process in the background.
#[derive(Debug)]
pub(crate) struct Daemon {
    child: Child,
    /// The process that does the work: the child, or its child where a wrapper forks.
    pid: u32,
    log: PathBuf,
}

impl Daemon {
    pub(crate) fn start(mut command: Command, log: &Path) -> Result<Self> {
        let output = File::create(log).with_context(|| format!("cannot create {}", log.display()))?;
        command.stdout(output.try_clone()?).stderr(output);
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { pid: child.id(), child, log: log.to_path_buf() })
    }

    /// Asks until there is an answer, and says what the process printed when it ends before that.
    pub(crate) fn wait_for<T>(&mut self, what: &str, pause: Duration, mut ask: impl FnMut() -> Option<T>) -> Result<T> {
        let started = Instant::now();
        loop {
            if let Some(answer) = ask() {
                return Ok(answer);
            }
            if let Some(status) = self.child.try_wait()? {
                bail!("{what}: ended with {status}: {}", last_line(&self.log()));
            }
            ensure!(started.elapsed() < READY_LIMIT, "{what}: not within {READY_LIMIT:?}: {}", last_line(&self.log()));
            std::thread::sleep(pause);
        }
    }

    /// Looks past a wrapper that forks.
    pub(crate) fn follow_fork(&mut self) -> Result<()> {
        let id = self.child.id();
        let children = fs::read_to_string(format!("/proc/{id}/task/{id}/children"))?;
        self.pid = children.trim().parse().with_context(|| format!("children of {id}: {children:?}"))?;
        Ok(())
    }

    /// CPU time so far, of the process and the children that it waited for.
    pub(crate) fn cpu(&self) -> Result<f64> {
        cpu(self.pid)
    }

    /// Memory in use, in bytes.
    pub(crate) fn rss(&self) -> Result<u64> {
        self.status("VmRSS:")
    }

    /// The most memory in use since the start, or since [`Self::forget_peak`], in bytes.
    pub(crate) fn peak_rss(&self) -> Result<u64> {
        self.status("VmHWM:")
    }

    pub(crate) fn forget_peak(&self) -> Result<()> {
        Ok(fs::write(format!("/proc/{}/clear_refs", self.pid), "5")?)
    }

    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Kills it and waits for its end.
    pub(crate) fn end(&mut self) {
        // Where a wrapper forks, it ends with what it waits for. Each fails where the process ended by itself.
        if let Some(pid) = i32::try_from(self.pid).ok().and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::KILL);
        }
        let _ = self.child.wait();
    }

    fn status(&self, field: &str) -> Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid))?;
        let kib = status.lines().find_map(|line| line.strip_prefix(field)?.trim().strip_suffix(" kB"));
        Ok(kib.with_context(|| format!("no {field}"))?.parse::<u64>()? << 10)
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.end();
    }
}

/// CPU time so far, of a process and the children that it waited for.
pub(crate) fn cpu(pid: u32) -> Result<f64> {
    cpu_seconds(&format!("/proc/{pid}/stat"), 13..17)
}

/// CPU time of this process's own threads: the shaper, while a build runs.
pub(crate) fn own_cpu() -> Result<f64> {
    cpu_seconds("/proc/self/stat", 13..15)
}

/// CPU time of the children that this process waited for: buildctl.
pub(crate) fn children_cpu() -> Result<f64> {
    cpu_seconds("/proc/self/stat", 15..17)
}

/// Sums fields of a `stat` file, numbered from 0 as in proc(5) from 1.
fn cpu_seconds(stat: &str, fields: std::ops::Range<usize>) -> Result<f64> {
    let text = fs::read_to_string(stat)?;
    // The second field is the name, in parentheses, and may contain spaces.
    let (_, rest) = text.rsplit_once(')').with_context(|| format!("{stat}: {text:?}"))?;
    let ticks = rest.split_ascii_whitespace().skip(fields.start - 2).take(fields.len());
    Ok(ticks.map(str::parse::<f64>).sum::<Result<f64, _>>()? / TICKS_PER_SECOND)
}

/// The last line that says something.
pub(crate) fn last_line(text: &str) -> &str {
    text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no output")
}
