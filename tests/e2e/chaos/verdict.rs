//! How a case went for one contestant, as a cell of the table.

use std::fmt;
use std::time::Duration;

use super::rig::Timed;
use crate::support::client::Outcome;

/// How much of a case is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scale {
    /// In `make test`.
    Quick,
    /// In `make chaos`.
    Full,
}

impl Scale {
    pub fn pick<T>(self, quick: T, full: T) -> T {
        match self {
            Self::Quick => quick,
            Self::Full => full,
        }
    }
}

/// Builds, and what was found beside their exit codes.
#[derive(Debug, Default)]
pub struct Verdict {
    builds: usize,
    failures: Vec<String>,
    longest: Duration,
    /// Promises that were not kept though the builds passed.
    broken: Vec<String>,
    notes: Vec<String>,
}

impl Verdict {
    /// A verdict without builds of its own.
    pub fn noted(note: &str) -> Self {
        Self { notes: vec![note.to_owned()], ..Self::default() }
    }

    /// Counts a build. Returns its outcome where it passed.
    pub fn add(&mut self, timed: Timed) -> Option<Outcome> {
        self.builds += 1;
        self.longest = self.longest.max(timed.wall);
        match timed.outcome {
            Some(outcome) if outcome.status.success() => Some(outcome),
            Some(outcome) => {
                self.failures.push(last_line(&outcome.text));
                None
            }
            None => {
                self.failures.push("it hangs".to_owned());
                None
            }
        }
    }

    pub fn note(&mut self, note: String) {
        self.notes.push(note);
    }

    pub fn check(&mut self, kept: bool, promise: impl FnOnce() -> String) {
        if !kept {
            self.broken.push(promise());
        }
    }

    pub fn passed(&self) -> bool {
        self.failures.is_empty() && self.broken.is_empty()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut parts = Vec::new();
        let longest = self.longest.as_secs_f64();
        let failed = self.failures.len();
        match (self.builds, failed) {
            (0, _) => {}
            (1, 0) => parts.push(format!("passed, {longest:.1} s")),
            (1, _) => parts.push(format!("**failed**, {longest:.1} s")),
            (builds, 0) => parts.push(format!("{builds} of {builds} passed, the longest {longest:.1} s")),
            (builds, _) => parts.push(format!("**{failed} of {builds} failed**, the longest {longest:.1} s")),
        }
        parts.extend(self.failures.first().map(|failure| format!("`{}`", failure.replace('|', "/"))));
        parts.extend(self.broken.iter().map(|broken| format!("**{}**", broken.replace('|', "/"))));
        parts.extend(self.notes.iter().cloned());
        f.write_str(&parts.join("; "))
    }
}

/// What a client said last, without what differs from run to run, cut to what fits a cell.
fn last_line(text: &str) -> String {
    let line = text.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
    let line = line.rsplit("failed to solve: ").next().unwrap_or(line);
    let once = regex::Regex::new("RequestID: [^,]*, HostID: [^,]*, |(?P<digest>sha256:)[0-9a-f]{64}").expect("an expression");
    once.replace_all(line, "$digest").chars().take(120).collect()
}
