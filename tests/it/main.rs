//! Tests of the library's parts over real sockets, with real parts where one exists.
//!
//! `cache`, `endpoints`, `store` and `transfer` are folders of `src`, and test what is there. `program` runs the real
//! binary, and `consistency` does so while its store fails. `architecture` reads the sources. `fault_proxy` tests the
//! proxy that other tests rely on. Fixtures are in `support`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::cast_possible_truncation,
    unreachable_pub,
    reason = "in the tests' own helpers too"
)]

mod architecture;
mod cache;
mod consistency;
mod endpoints;
mod fault_proxy;
mod program;
mod store;
mod support;
mod transfer;
