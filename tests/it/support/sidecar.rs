//! The real `remora` program: run to its end, or serving on ports and sockets of its own.
#![allow(dead_code, reason = "for all tests, those to come too")]

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Far longer than anything takes that does not hang.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// The program with an environment of nothing but what it needs.
pub(crate) fn remora(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_remora"));
    command.args(arguments).env_clear().stdin(Stdio::null());
    for kept in ["PATH", "HOME", "TMPDIR", "LLVM_PROFILE_FILE"] {
        if let Some(value) = std::env::var_os(kept) {
            command.env(kept, value);
        }
    }
    command
}

/// Runs the program to its end.
pub(crate) fn run(arguments: &[&str]) -> Ended {
    remora(arguments).output().unwrap().into()
}

/// How a run ended, and what it printed.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let text = |bytes| String::from_utf8(bytes).unwrap();
        Self { code: output.status.code(), stdout: text(output.stdout), stderr: text(output.stderr) }
    }
}

impl Ended {
    /// The one line on stderr of a run that ended with `code`.
    #[track_caller]
    pub(crate) fn one_line(&self, code: i32) -> &str {
        assert_eq!(self.code, Some(code), "{self:?}");
        let mut lines = self.stderr.lines();
        let line = lines.next().unwrap_or_default();
        assert!(line.starts_with("remora: ") && lines.next().is_none(), "{self:?}");
        line
    }

    /// stdout as JSON.
    #[track_caller]
    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }
}

/// How a sidecar is started.
#[derive(Debug)]
pub(crate) struct SidecarBuilder {
    dir: TempDir,
    flags: BTreeMap<String, String>,
    variables: Vec<(String, OsString)>,
}

/// A remora that serves, all endpoints on, until it is dropped.
#[derive(Debug)]
pub(crate) struct Sidecar {
    dir: TempDir,
    flags: BTreeMap<String, String>,
    variables: Vec<(String, OsString)>,
    child: Child,
    log: Log,
}

/// What a process wrote to stderr so far; a thread reads on, so that the pipe never fills.
#[derive(Debug, Clone, Default)]
struct Log(Arc<(Mutex<LogText>, Condvar)>);

#[derive(Debug, Default)]
struct LogText {
    lines: Vec<String>,
    ended: bool,
}

impl Sidecar {
    /// A sidecar with a directory store, all of its files and sockets in a folder of its own.
    pub(crate) fn builder() -> SidecarBuilder {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name).display().to_string();
        let flags = [
            ("log-format", "json".to_owned()),
            ("data-dir", at("data")),
            ("control", format!("unix://{}", at("control.sock"))),
            ("content", "tcp://127.0.0.1:0".to_owned()),
            ("s3", "tcp://127.0.0.1:0".to_owned()),
            ("admin", "tcp://127.0.0.1:0".to_owned()),
            ("buildkitd", format!("unix://{}", at("buildkitd.sock"))),
        ];
        let flags = flags.map(|(name, value)| (name.to_owned(), value)).into();
        SidecarBuilder { dir, flags, variables: Vec::new() }
    }

    /// Starts one with a directory store and no buildkitd.
    pub(crate) fn start() -> Self {
        Self::builder().start()
    }

    /// Its folder: `data`, `control.sock`; `buildkitd.sock` is where it looks for buildkitd.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The root of its directory store.
    pub(crate) fn store(&self) -> PathBuf {
        self.dir().join("data/store")
    }

    /// Where the endpoint listens, as it logged it: `tcp://…` or `unix://…`.
    pub(crate) fn address(&self, endpoint: &str) -> String {
        let address = |line: &String| {
            let event: serde_json::Value = serde_json::from_str(line).ok()?;
            (event["message"] == "listening" && event["endpoint.name"] == endpoint)
                .then(|| event["endpoint.address"].as_str().unwrap().to_owned())
        };
        let text = self.log.0.0.lock().unwrap();
        text.lines.iter().find_map(address).unwrap_or_else(|| panic!("no {endpoint} endpoint: {:?}", text.lines))
    }

    /// `host:port` of an endpoint on TCP.
    pub(crate) fn host_port(&self, endpoint: &str) -> String {
        self.address(endpoint).strip_prefix("tcp://").unwrap().to_owned()
    }

    /// Its log so far.
    pub(crate) fn log(&self) -> String {
        self.log.0.0.lock().unwrap().lines.join("\n")
    }

    /// Waits for a line that contains `text`.
    #[track_caller]
    pub(crate) fn wait_for(&self, text: &str) {
        assert!(self.log.wait_for(text), "no line has {text:?}: {}", self.log());
    }

    /// Asks the admin endpoint: status, headers in lower case, body.
    pub(crate) fn admin(&self, method: &str, path: &str) -> (u16, String, String) {
        let mut stream = TcpStream::connect(self.host_port("admin")).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        write!(stream, "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), head.to_lowercase(), body.to_owned())
    }

    /// Sends a signal, by the name that `kill` knows.
    pub(crate) fn signal(&self, name: &str) {
        let sent = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status().unwrap();
        assert!(sent.success());
    }

    /// Waits for the end of the process.
    pub(crate) fn wait(&mut self) -> ExitStatus {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(start.elapsed() < PATIENCE, "it does not end: {}", self.log());
            #[expect(clippy::disallowed_methods, reason = "no async here")]
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Kills the process, as `kill -9` does, and starts it again on its files. The log begins anew.
    pub(crate) fn restart(&mut self) {
        self.child.kill().unwrap();
        assert_eq!(self.child.wait().unwrap().signal(), Some(9));
        (self.child, self.log) = launch(&self.flags, &self.variables);
    }

    /// Kills the process, as `kill -9` does, and returns its folder.
    pub(crate) fn kill(mut self) -> PathBuf {
        self.child.kill().unwrap();
        assert_eq!(self.child.wait().unwrap().signal(), Some(9));
        self.dir.path().to_owned()
    }
}

impl SidecarBuilder {
    /// Sets a flag, by its name without dashes, in place of what it was.
    pub(crate) fn flag(mut self, name: &str, value: impl Into<String>) -> Self {
        self.flags.insert(name.to_owned(), value.into());
        self
    }

    /// Sets a variable.
    pub(crate) fn env(mut self, name: &str, value: impl Into<OsString>) -> Self {
        self.variables.push((name.to_owned(), value.into()));
        self
    }

    /// The folder that the sidecar will have.
    pub(crate) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Starts it and waits until it serves.
    pub(crate) fn start(self) -> Sidecar {
        let (child, log) = launch(&self.flags, &self.variables);
        Sidecar { dir: self.dir, flags: self.flags, variables: self.variables, child, log }
    }
}

fn launch(flags: &BTreeMap<String, String>, variables: &[(String, OsString)]) -> (Child, Log) {
    let mut command = remora(&["serve"]);
    command.args(flags.iter().map(|(name, value)| format!("--{name}={value}"))).envs(variables.iter().cloned());
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let log = Log::default();
    log.read(BufReader::new(child.stderr.take().unwrap()));
    assert!(log.wait_for("remora is up"), "it does not start: {log:?}");
    (child, log)
}

impl Log {
    fn read(&self, stderr: impl BufRead + Send + 'static) {
        let log = self.clone();
        std::thread::spawn(move || {
            let (text, changed) = &*log.0;
            for line in stderr.lines().map_while(Result::ok) {
                text.lock().unwrap().lines.push(line);
                changed.notify_all();
            }
            text.lock().unwrap().ended = true;
            changed.notify_all();
        });
    }

    fn wait_for(&self, wanted: &str) -> bool {
        let there = |text: &LogText| text.lines.iter().any(|line| line.contains(wanted));
        let (text, changed) = &*self.0;
        let waiting = |text: &mut LogText| !text.ended && !there(text);
        let (text, _) = changed.wait_timeout_while(text.lock().unwrap(), PATIENCE, waiting).unwrap();
        there(&text)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let _ = writeln!(std::io::stderr(), "the sidecar's log:\n{}", self.log());
        }
    }
}
