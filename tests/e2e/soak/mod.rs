//! Many builds: remora takes up no more after the last than after the first, and is no slower.
//!
//! `make soak` runs thousands and prints a table of them; a short run is a test.

mod builds;
mod table;

use std::time::Duration;

use self::builds::Group;
use self::table::{Row, Table, is_settled};
use crate::support::cases::Transport;
use crate::support::process::within;

/// The number of first builds, which make what stays, such as connections to the store.
const WARM_UP: usize = 20;
/// How soon after the last build nothing is left of the builds.
const SETTLED: Duration = Duration::from_secs(10);
const HUNDRED: usize = 100;
/// How many builds each transport has in `make soak`, where it is not [`DEFAULT_BUILDS`].
const BUILDS: &str = "REMORA_SOAK_BUILDS";
const DEFAULT_BUILDS: usize = 2000;

#[test]
fn sixty_builds_over_relay_leave_nothing() {
    leave_nothing(Transport::Relay, 60);
}

#[test]
fn sixty_builds_over_sessions_leave_nothing() {
    leave_nothing(Transport::Session, 60);
}

fn leave_nothing(transport: Transport, builds: usize) {
    let mut table = Table::default();
    soak(&mut table, transport, builds - WARM_UP, builds - WARM_UP);
    table.assert_bounds();
}

/// `make soak`. Builds without remora, before and after, tell whether the machine became slower meanwhile.
#[test]
#[ignore = "thousands of builds: make soak runs it"]
fn table() {
    let given = std::env::var_os(BUILDS);
    let builds = given.map_or(DEFAULT_BUILDS, |builds| builds.to_str().expect("text").parse().expect("a number of builds"));
    let mut table = Table::default();
    for transport in Transport::BOTH {
        let before = direct(&mut table);
        soak(&mut table, transport, builds, HUNDRED);
        let after = direct(&mut table);
        table.check_trends(transport, after.div_duration_f64(before));
    }
    table.assert_bounds();
}

/// Adds a row for every `step` of so many builds through remora.
fn soak(table: &mut Table, transport: Transport, builds: usize, step: usize) {
    let mut group = Group::start(Some(transport));
    group.build(WARM_UP);
    within(SETTLED, || (group.remora().connections().total() == 0).then_some(()));
    let warm = group.remora().occupied().sizes();
    let mut before = warm;
    for done in (0..builds).step_by(step) {
        let count = step.min(builds - done);
        let took = group.build(count);
        within(SETTLED, || is_settled(&group.remora().occupied().sizes(), &warm).then_some(()));
        let sizes = group.remora().occupied().sizes();
        let cpu = sizes.cpu - before.cpu;
        table.add_settled(Row { transport: Some(transport), builds: done + count, sizes: Some(sizes), count, took, cpu }, &warm);
        before = sizes;
        group.prune();
    }
    group.assert_all_went_over(transport);
}

/// Adds a row for a hundred builds straight at buildkitd. Returns how long they took.
fn direct(table: &mut Table) -> Duration {
    let mut group = Group::start(None);
    group.build(WARM_UP);
    let took = group.build(HUNDRED);
    table.add(Row { transport: None, builds: HUNDRED, sizes: None, count: HUNDRED, took, cpu: Duration::ZERO });
    took
}
