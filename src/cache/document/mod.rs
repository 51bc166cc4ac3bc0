//! The manifest as pure data.
//!
//! In: documents as BuildKit writes them. Out: typed values (`cache_config`), what is left of a config without its lost blobs
//! (`strip`), and two configs merged into one (`merge`). Nothing here does I/O.

pub(in crate::cache) mod cache_config;
mod graph;
pub(in crate::cache) mod merge;
pub(in crate::cache) mod strip;
