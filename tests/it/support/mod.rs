//! What several tests need.

pub mod tools;
