//! What it takes to run one build again, and whether that happens.

use std::sync::Arc;

use bytes::Bytes;
use http::request::Parts;
use tokio::sync::watch;
use tonic::Code;

use super::outputs::Outputs;
use super::recorded_call::RecordedCall;
use super::recording::Recording;
use crate::endpoints::control::options::{SolveCall, is_failed_return};
use crate::endpoints::control::proxy::Answer;
use crate::types::Promises;

/// The replay of one build: its recorded calls, and the decision that follows its first run.
#[derive(Debug)]
pub(crate) struct Replay {
    promises: Arc<Promises>,
    recording: Recording,
    second_run: watch::Sender<SecondRun>,
}

/// Whether a second run follows the first.
#[derive(Debug, Clone, PartialEq, Eq)]
enum SecondRun {
    /// No run follows.
    No,
    /// That is not known before the first run is over.
    Undecided,
    /// One follows, under this reference.
    Under(String),
}

impl Replay {
    /// The replay of a build with these promises. Nothing is recorded yet, so that the build would not be run again.
    pub(crate) fn new(promises: Arc<Promises>) -> Self {
        Self { promises, recording: Recording::default(), second_run: watch::Sender::new(SecondRun::No) }
    }

    /// Records a call before it is sent: `without_imports` is its message without the cache imports, where it has
    /// any. A call that must be recorded together with its answer is returned, for [`Self::record_answer`].
    pub(crate) fn record_call(
        &self,
        kind: SolveCall,
        head: &Parts,
        message: &Bytes,
        without_imports: Option<Vec<u8>>,
    ) -> Option<RecordedCall> {
        if kind == SolveCall::Build {
            // A second run goes without imports. A build that has none would only fail again.
            if let (Some(without_imports), Ok(outputs)) = (without_imports, Outputs::of(message)) {
                self.begin(RecordedCall::new(head, without_imports.into()), outputs);
            }
            return None;
        }
        if !self.is_recording() {
            return None;
        }
        let call = RecordedCall::new(head, without_imports.map_or_else(|| message.clone(), Bytes::from));
        match kind {
            SolveCall::Gateway if self.recording.has_room_for(&call) => return Some(call),
            SolveCall::Gateway => self.give_up(),
            // The client itself has given up.
            _ if is_failed_return(message) => self.give_up(),
            // Nothing in its answer is needed, and the build may be over before the answer is here.
            _ => self.add(call),
        }
        None
    }

    /// Records a call and its answer.
    pub(crate) fn record_answer(&self, call: RecordedCall, answer: &Answer) {
        // A call that failed is for the client to deal with, which may go on without it.
        if answer.code() != Some(Code::Ok) {
            return;
        }
        match answer.message().map(|message| call.with_answer(message)) {
            Some(Ok(call)) => self.add(call),
            _ => self.give_up(),
        }
    }

    /// The build does something that cannot be done twice: it is not run again.
    pub(crate) fn give_up(&self) {
        self.promises.set_replayable(false);
        self.recording.give_up();
        self.second_run.send_replace(SecondRun::No);
    }

    /// Whether the build's calls are recorded.
    pub(super) fn is_recording(&self) -> bool {
        self.recording.is_on()
    }

    /// Whether a layer that was promised to the build did not come.
    pub(super) fn has_broken_promise(&self) -> bool {
        self.promises.is_broken()
    }

    /// Decides whether the build, whose first run is over, is run again under `reference`: where it is `lost` for
    /// want of promised layers, and its calls can be made again. Returns these calls.
    pub(super) fn decide(&self, lost: bool, reference: &str) -> Option<Vec<RecordedCall>> {
        let calls = self.recording.take(self.promises.has_begun_export()).filter(|_| lost);
        self.second_run.send_replace(if calls.is_some() { SecondRun::Under(reference.to_owned()) } else { SecondRun::No });
        calls
    }

    /// Waits until the first run is over. Returns the reference of the second run, if there is one.
    pub(super) fn second_run(&self) -> impl Future<Output = Option<String>> + Send + use<> {
        let mut second_run = self.second_run.subscribe();
        async move {
            match &*second_run.wait_for(|second_run| *second_run != SecondRun::Undecided).await.ok()? {
                SecondRun::Under(reference) => Some(reference.clone()),
                SecondRun::No | SecondRun::Undecided => None,
            }
        }
    }

    fn begin(&self, call: RecordedCall, outputs: Outputs) {
        if self.recording.begin(call, outputs) {
            self.promises.set_replayable(true);
            self.second_run.send_replace(SecondRun::Undecided);
        }
    }

    fn add(&self, call: RecordedCall) {
        if self.recording.is_on() && !self.recording.add(call) {
            self.give_up();
        }
    }
}
