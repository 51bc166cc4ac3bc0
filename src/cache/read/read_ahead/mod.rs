//! Read-ahead: blobs are asked for before a build asks.
//!
//! The manifest that a build was served tells which layers it reads next (`chains`). With a disk cache they are fetched
//! into it (`into_disk`). Without one, a build that reads one layer after the other over its session finds its next reads
//! begun (`sequential`). Over HTTP without a disk cache there is no read-ahead: BuildKit asks for many layers at once.

mod chains;
mod into_disk;
mod sequential;

pub(super) use chains::Predictions;
pub(super) use into_disk::IntoDisk;
pub(super) use sequential::Sequential;
