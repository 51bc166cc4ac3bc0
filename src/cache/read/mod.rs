//! How a blob is read: from the disk cache, by a fill that is under way, or from its bucket.

pub(in crate::cache) mod disk;
mod fill;
pub(in crate::cache) mod opened;
pub(in crate::cache) mod read_ahead;
mod verify;
