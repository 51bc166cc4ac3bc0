//! Reads of blobs: those that begin before a build asks, and those whose bytes are not what they should be.

mod read_ahead;
mod verified;
