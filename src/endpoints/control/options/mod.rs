//! The cache options inside a call: where they stand, and what they ask for.
//!
//! A message of a `Solve` enters; its `type=s3` cache entries leave, each read against what the operator serves.
//! What was decided for each entry enters next, and the message with those entries replaced leaves. Every other
//! byte of the message stays. How an entry's cache travels is decided in the rooms above.

pub(crate) mod attrs;
pub(crate) mod rewrite;
