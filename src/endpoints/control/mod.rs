//! The control endpoint.
