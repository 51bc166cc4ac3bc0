//! Child processes: none outlives the test process, and none may hang it.

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::tools::tool;

/// The pause between two looks at something that is waited for.
const TICK: Duration = Duration::from_millis(10);

/// How long a command may take before the test fails: far more than any needs.
const COMMAND_LIMIT: Duration = Duration::from_secs(180);
/// How long a daemon may take to be ready.
pub const READY_LIMIT: Duration = Duration::from_secs(60);

/// A command whose process dies with the thread that starts it.
pub fn leashed(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(tool("setpriv"));
    command.args(["--pdeathsig", "KILL", "--"]).arg(program);
    command
}

/// As [`leashed`], in PID and mount namespaces of its own: its containers and mounts end with it.
pub fn isolated(program: impl AsRef<OsStr>) -> Command {
    let mut command = leashed(tool("unshare"));
    command.args(["--pid", "--fork", "--kill-child", "--mount", "--mount-proc", "--"]).arg(program);
    command
}

/// What a command left behind.
#[derive(Debug)]
pub struct Finished {
    /// How it ended.
    pub status: ExitStatus,
    /// All that it wrote to standard output.
    pub stdout: String,
    /// All that it wrote to standard error.
    pub stderr: String,
}

impl Finished {
    /// Its standard output. Fails the test, showing everything, when the command failed.
    pub fn expect_success(self) -> String {
        assert!(self.status.success(), "{self:#?}");
        self.stdout
    }
}

/// A process that runs in the background, its output in files.
#[derive(Debug)]
pub struct Running {
    child: Child,
    what: String,
    output: tempfile::TempDir,
    isolated: bool,
}

impl Running {
    /// Starts it, with nothing to read.
    pub fn start(command: Command) -> Self {
        Self::start_fed(command, Stdio::null())
    }

    /// As [`Self::start`], for a command that [`isolated`] made: when this is dropped, all that runs in
    /// its namespaces has ended.
    pub fn start_isolated(command: Command) -> Self {
        let mut running = Self::start(command);
        running.isolated = true;
        running
    }

    /// As [`Self::start`], with something to read.
    pub fn start_fed(mut command: Command, stdin: Stdio) -> Self {
        let output = tempfile::tempdir().expect("temp dir");
        let what = format!("{command:?}");
        let stream = |name| File::create(output.path().join(name)).expect("output file");
        command.stdin(stdin).stdout(stream("stdout")).stderr(stream("stderr"));
        let child = command.spawn().unwrap_or_else(|error| panic!("{what}: {error}"));
        Self { child, what, output, isolated: false }
    }

    /// Standard output so far.
    pub fn stdout(&self) -> String {
        self.read("stdout")
    }

    /// Standard error so far.
    pub fn stderr(&self) -> String {
        self.read("stderr")
    }

    /// Sends it a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap_or_else(|error| panic!("{}: {error}", self.what));
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where its output is.
    pub(crate) fn output_dir(&self) -> &Path {
        self.output.path()
    }

    /// Waits for its end.
    pub fn finish(self) -> Finished {
        self.finish_within(COMMAND_LIMIT)
    }

    /// Waits for its end, which is to come soon.
    pub fn finish_within(self, limit: Duration) -> Finished {
        let what = self.what.clone();
        self.end_within(limit).unwrap_or_else(|said| panic!("{what} hangs\n{said}"))
    }

    /// Waits for its end, but kills it after `limit`. The error has what it printed until then.
    pub fn end_within(mut self, limit: Duration) -> Result<Finished, String> {
        let started = Instant::now();
        let status = loop {
            if let Some(status) = self.child.try_wait().expect("wait") {
                break status;
            }
            if started.elapsed() > limit {
                return Err(format!("{}\n{}", self.stdout(), self.stderr()));
            }
            pause(TICK);
        };
        Ok(Finished { status, stdout: self.stdout(), stderr: self.stderr() })
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.child.try_wait().expect("wait").is_some()
    }

    /// Fails the test when the process is no longer there: nothing is gained by waiting for it.
    pub fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().expect("wait") {
            panic!("{} ended: {status} (signal {:?})\n{}\n{}", self.what, status.signal(), self.stdout(), self.stderr());
        }
    }

    /// The first process of the namespaces. `unshare` ends after it, and so after all that is in them;
    /// killed itself, it would end before.
    pub fn isolated_child(&self) -> Option<Pid> {
        let pid = self.child.id();
        let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).ok()?;
        Pid::from_raw(children.trim().parse().ok()?).filter(|_| self.isolated)
    }

    fn read(&self, name: &str) -> String {
        String::from_utf8_lossy(&std::fs::read(self.output.path().join(name)).expect("output file")).into_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Each may fail where the process ended by itself.
        match self.isolated_child() {
            Some(child) => drop(kill_process(child, Signal::KILL)),
            None => drop(self.child.kill()),
        }
        let _ = self.child.wait();
    }
}

/// Runs a command to its end.
pub fn run(command: Command) -> Finished {
    Running::start(command).finish()
}

/// Asks again and again until there is an answer.
pub fn eventually<T>(what: &str, limit: Duration, ask: impl FnMut() -> Option<T>) -> T {
    within(limit, ask).unwrap_or_else(|| panic!("{what}: not within {limit:?}"))
}

/// As [`eventually`], where there may be no answer.
pub fn within<T>(limit: Duration, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    loop {
        let answer = ask();
        if answer.is_some() || started.elapsed() > limit {
            return answer;
        }
        pause(TICK);
    }
}

/// Blocks this thread for so long.
#[allow(clippy::disallowed_methods, reason = "these tests are synchronous: there is no worker to block")]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// All files below `dir`, by their paths relative to it.
pub fn files_below(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut todo = vec![dir.to_path_buf()];
    while let Some(next) = todo.pop() {
        // A daemon may delete files and folders meanwhile: they do not count.
        for entry in std::fs::read_dir(&next).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => todo.push(entry.path()),
                Ok(kind) if kind.is_file() => found.push(entry.path().strip_prefix(dir).expect("below").to_path_buf()),
                _ => {}
            }
        }
    }
    found.sort();
    found
}
