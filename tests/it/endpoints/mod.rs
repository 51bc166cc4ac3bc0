//! Each endpoint in this process, spoken to by a real client of its protocol.

mod content;
mod control;
mod s3;
