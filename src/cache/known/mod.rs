//! What this process knows of stored blobs: which are present, and how far their bytes are trusted.

pub(in crate::cache) mod bulk_lookup;
pub(in crate::cache) mod hits;
pub(in crate::cache) mod lru;
pub(in crate::cache) mod presence;
pub(in crate::cache) mod trust;
