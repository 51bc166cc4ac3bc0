//! What several tests need.

pub(crate) mod memory_store;
pub mod tools;
