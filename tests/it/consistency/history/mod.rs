//! Histories of what many clients did at once, and the promises that they must keep.

mod checker;
mod record;
mod workload;
