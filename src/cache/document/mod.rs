//! The manifest as pure data: the typed cache config, what is left of it without lost blobs, and the union of two.
//!
//! In: documents as BuildKit writes them. Out: values, and documents again. Nothing here does I/O.

pub(in crate::cache) mod cache_config;
mod graph;
pub(in crate::cache) mod merge;
pub(in crate::cache) mod strip;
