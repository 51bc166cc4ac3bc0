//! The second run of a build whose cache lost layers that were promised to it.
//!
//! The calls of a build enter while it runs, and are kept. When the build has failed for want of promised
//! layers, they are made once more without the cache imports, under another reference, and that answer leaves
//! in place of the first. The progress of the second run follows that of the first on the same stream.
//!
//! [`Replay`] is the state of one build, which its register owns; [`Replayer`] makes the calls.

mod outputs;
mod recorded_call;
mod recording;
mod replayer;
mod state;

pub(super) use recorded_call::RecordedCall;
pub(super) use replayer::{FirstRun, Replayer};
pub(super) use state::Replay;
