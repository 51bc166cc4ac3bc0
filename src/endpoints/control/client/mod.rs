//! The calls of one client's connection, each led through the rooms that it needs.

pub(crate) mod solve;
