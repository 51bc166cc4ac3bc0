//! The content endpoint.
