//! The stores: what all of them promise, what each has of its own, and the guard in front of them.

mod contract;
mod directory;
mod guarded;
mod s3;
