//! The calls of a build, kept so that they can be made once more without the cache imports.
//!
//! Few calls make a build (*ran*, buildctl and buildx). `Control/Solve` lasts as long as the build. Beside it
//! come `LLBBridge/Solve`, whose answer names results by ids, and `LLBBridge/Return`, which says by their ids
//! which results are the build's. All other calls of a build only read, or are of a kind that is not repeated
//! ([`Recording::give_up`]).

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::outputs::Outputs;
use super::recorded_call::RecordedCall;

/// Bytes that are kept of one build. Most builds need some KiB: the files of their context do not come in these calls.
const MAX_BYTES: usize = 4 << 20;

/// The calls of one build; nothing where they cannot be repeated.
#[derive(Debug, Default)]
pub(super) struct Recording(Mutex<Option<Calls>>);

#[derive(Debug)]
struct Calls {
    recorded: Vec<RecordedCall>,
    bytes: usize,
    writes_to_client: bool,
}

impl Recording {
    /// The build begins with this call. Returns whether it can be repeated.
    pub(super) fn begin(&self, build: RecordedCall, outputs: Outputs) -> bool {
        let begun = Calls { recorded: Vec::new(), bytes: 0, writes_to_client: outputs.has_files() };
        *self.calls() = outputs.are_repeatable().then_some(begun);
        self.add(build)
    }

    /// The build goes on with this call. Returns whether it still can be repeated.
    pub(super) fn add(&self, call: RecordedCall) -> bool {
        let mut calls = self.calls();
        if let Some(calls) = calls.as_mut() {
            calls.bytes += call.bytes();
            calls.recorded.push(call);
        }
        *calls = calls.take().filter(|calls| calls.bytes <= MAX_BYTES);
        calls.is_some()
    }

    /// Forgets the calls: they cannot be repeated, or need not be any more.
    pub(super) fn give_up(&self) {
        *self.calls() = None;
    }

    /// Whether calls are kept.
    pub(super) fn is_on(&self) -> bool {
        self.calls().is_some()
    }

    /// Whether there is room for this call.
    pub(super) fn has_room_for(&self, call: &RecordedCall) -> bool {
        self.calls().as_ref().is_some_and(|calls| calls.bytes + call.bytes() <= MAX_BYTES)
    }

    /// Takes the calls, to repeat them once. `None` also where the export of the cache had begun and the client
    /// gets files, which it has got by then.
    pub(super) fn take(&self, export_begun: bool) -> Option<Vec<RecordedCall>> {
        let calls = self.calls().take().filter(|calls| !(calls.writes_to_client && export_begun))?;
        calls.are_complete().then_some(calls.recorded)
    }

    fn calls(&self) -> MutexGuard<'_, Option<Calls>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Calls {
    /// Whether the build ends by itself once these calls have been made: the client's last call is among them, or
    /// its first one says all that is to be built.
    fn are_complete(&self) -> bool {
        self.recorded.last().is_some_and(RecordedCall::is_return) || self.recorded.first().is_some_and(RecordedCall::says_what_to_build)
    }
}
