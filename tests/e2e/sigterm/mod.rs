//! remora is told to end while builds run: they end as if it had not been, and then it ends.

mod calls;
mod drill;
mod ends;
mod gate;
mod moments;
mod rig;

use crate::support::cases::{Transport, Via};

use drill::Drill;
use moments::MOMENTS;

/// All moments, one after the other, of builds that differ in nothing else.
fn no_moment_matters(via: Via, transport: Transport) {
    let mut drill = Drill::start(via, transport);
    for moment in MOMENTS.iter().filter(|moment| moment.is_of(via)) {
        eprintln!("{via:?} {transport:?} {}", moment.name);
        drill.end_at(moment);
    }
    drill.finish();
}

#[test]
fn no_moment_matters_to_buildctl_over_relay() {
    no_moment_matters(Via::Buildctl, Transport::Relay);
}

#[test]
fn no_moment_matters_to_buildctl_over_a_session() {
    no_moment_matters(Via::Buildctl, Transport::Session);
}

#[test]
fn no_moment_matters_to_a_container_of_buildx_over_relay() {
    no_moment_matters(Via::BuildxContainer, Transport::Relay);
}

#[test]
fn no_moment_matters_to_a_container_of_buildx_over_a_session() {
    no_moment_matters(Via::BuildxContainer, Transport::Session);
}
