//! The cache options inside a call: where they stand, and what they ask for.
//!
//! A message of a `Solve` enters, and its `type=s3` cache entries leave ([`CacheOptions::find`]). What was decided
//! for each entry enters next ([`Decision`]), and the message with these entries replaced leaves
//! ([`CacheOptions::splice`]). Every other byte of the message stays. An entry is read against what the operator
//! serves ([`Target`]); how its cache travels is decided in the rooms above.

mod attrs;
mod entry;
mod error;
mod find;
mod json;
mod solve_call;
mod splice;
#[cfg(test)]
mod tests;

pub(super) use attrs::{Attrs, Refusal, Target};
pub(super) use entry::{CacheEntry, Decision, FoundEntry, exports};
pub(super) use find::CacheOptions;
pub(super) use solve_call::{BUILD_ID, SolveCall, build_reference, build_session, is_failed_return};
