//! What is read and listed is right while the store fails, remora is killed, and many clients write at once.
//!
//! Clients of the endpoints, without a build, check every answer: bytes against their digests, and the history of
//! manifests against the promises of `history/checker.rs`. `tests/e2e/chaos` is not a larger size of this. It runs
//! real builds, asks only whether they pass and how long they take, and does the same with native BuildKit. A
//! wrong byte that a build does not notice shows here alone, and a client that gives up too early there alone. Both
//! share one fault proxy and one seed.

mod blobs;
mod client;
mod disk;
mod history;
