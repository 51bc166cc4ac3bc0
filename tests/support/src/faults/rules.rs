//! Which requests are harmed, how often, and how.

use std::time::Duration;

/// What befalls one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// `503 SlowDown`; the store never sees the request.
    SlowDown,
    /// `404 NoSuchKey`; the store never sees the request.
    Gone,
    /// The connection is reset at a random offset of the body: the request's where it has one, else the answer's.
    Reset,
    /// The body stops at a random offset for so long, then goes on.
    Stall(Duration),
    /// The answer's body ends early, at a random offset.
    Truncate,
    /// One byte of the answer's body is another.
    Flip,
    /// The answer's `ETag` is not the object's.
    WrongETag,
    /// From this request on the line is dark, until it is set up again.
    Dark,
    /// The store has the request, and its answer finds the line dark, until it is set up again.
    DarkAnswer,
}

impl Fault {
    /// What each is counted as.
    pub const NAMES: [&str; 9] = ["slow down", "gone", "reset", "stall", "truncate", "flip", "wrong etag", "dark", "dark answer"];

    /// What it is counted as.
    pub fn name(self) -> &'static str {
        match self {
            Self::SlowDown => "slow down",
            Self::Gone => "gone",
            Self::Reset => "reset",
            Self::Stall(_) => "stall",
            Self::Truncate => "truncate",
            Self::Flip => "flip",
            Self::WrongETag => "wrong etag",
            Self::Dark => "dark",
            Self::DarkAnswer => "dark answer",
        }
    }
}

/// A fault for some of the requests.
#[derive(Debug, Clone, Copy)]
pub struct Rule {
    /// `None` for any method.
    pub method: Option<&'static str>,
    /// A part of the path. Empty for any path.
    pub path: &'static str,
    /// The share of these requests that is harmed, from 0 to 1.
    pub rate: f64,
    /// What befalls them.
    pub fault: Fault,
}

impl Rule {
    /// For all requests.
    pub fn any(rate: f64, fault: Fault) -> Self {
        Self { method: None, path: "", rate, fault }
    }

    /// For requests of one method whose path contains `path`.
    pub fn on(method: &'static str, path: &'static str, rate: f64, fault: Fault) -> Self {
        Self { method: Some(method), path, rate, fault }
    }

    /// One rule for each fault, all together harming about `rate` of all requests.
    pub fn mix(rate: f64, faults: &[Fault]) -> Vec<Self> {
        faults.iter().map(|fault| Self::any(rate / faults.len() as f64, *fault)).collect()
    }

    pub(super) fn matches(&self, method: &str, path: &str) -> bool {
        self.method.is_none_or(|wanted| wanted == method) && path.contains(self.path)
    }
}
