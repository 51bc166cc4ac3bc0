//! The cache config as data: what is read and written, and what a merge of two keeps.

mod cache_config;
mod merging;
