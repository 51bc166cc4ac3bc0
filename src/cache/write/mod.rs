//! How a blob comes in: received into memory or the spool, or found to be there already.

pub(in crate::cache) mod receive;
pub(in crate::cache) mod reuse;
pub(in crate::cache) mod spool;
