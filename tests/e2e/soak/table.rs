//! What remora takes up after so many builds, and how long they took.

use std::time::Duration;

use crate::support::cases::Transport;
use crate::support::footprint::Sizes;

/// Descriptors, and tasks, that may be more than after the warm-up: the number of connections to the store, which stay
/// open for a while, changes.
const SPARE: u64 = 16;
const MAX_RESIDENT_MIB: u64 = 128;
/// How much of it may come in the second half of the builds.
const MAX_GROWTH_MIB: u64 = 8;
/// How many times as long as the first builds the last may take, and how many times the CPU of remora.
const MAX_SLOWDOWN: f64 = 1.5;
const TITLES: &str = "\
| transport | builds | descriptors | tasks | resident, MiB | spool files | for 100 builds: s | CPU s of remora |
| --- | --- | --- | --- | --- | --- | --- | --- |";

#[derive(Debug)]
pub struct Row {
    /// `None` for builds without remora.
    pub transport: Option<Transport>,
    pub builds: usize,
    pub sizes: Option<Sizes>,
    /// Builds since the row before, and how long they took.
    pub count: usize,
    pub took: Duration,
    /// What remora used of the CPU meanwhile.
    pub cpu: Duration,
}

impl Row {
    fn seconds_for_a_hundred(&self, took: Duration) -> f64 {
        took.as_secs_f64() / self.count as f64 * 100.0
    }

    fn print(&self) {
        let transport = self.transport.map_or("direct".to_owned(), |transport| format!("{transport:?}").to_lowercase());
        let sizes = self.sizes.as_ref().map_or("| | |".to_owned(), |sizes| {
            format!("{} | {} | {} | {}", sizes.descriptors, sizes.tasks, sizes.resident_mib, sizes.spool_files)
        });
        let [took, cpu] = [self.took, self.cpu].map(|took| self.seconds_for_a_hundred(took));
        eprintln!("| {transport} | {} | {sizes} | {took:.1} | {cpu:.1} |", self.builds);
    }
}

/// Printed row by row; what is out of bounds fails the test when all are there.
#[derive(Debug, Default)]
pub struct Table {
    rows: Vec<Row>,
    faults: Vec<String>,
}

impl Table {
    pub fn add(&mut self, row: Row) {
        if self.rows.is_empty() {
            eprintln!("{TITLES}");
        }
        row.print();
        self.rows.push(row);
    }

    /// Adds what remora takes up some seconds after builds, where it took up `warm` after the first.
    pub fn add_settled(&mut self, row: Row, warm: &Sizes) {
        if let Some(sizes) = row.sizes.as_ref().filter(|sizes| !is_settled(sizes, warm)) {
            self.faults.push(format!("{:?}, {} builds: {sizes:?} is left, of the first builds it was {warm:?}", row.transport, row.builds));
        }
        self.add(row);
    }

    /// Compares the first builds of a transport with its last, where others took `slowdown` times as long after them
    /// as before.
    pub fn check_trends(&mut self, transport: Transport, slowdown: f64) {
        let rows: Vec<&Row> = self.rows.iter().filter(|row| row.transport == Some(transport)).collect();
        let (Some(first), Some(half), Some(last)) = (rows.first(), rows.get(rows.len() / 2), rows.last()) else { return };
        let times = |of: fn(&Row) -> Duration| last.seconds_for_a_hundred(of(last)) / first.seconds_for_a_hundred(of(first));
        let (slower, dearer) = (times(|row| row.took) / slowdown.max(1.0), times(|row| row.cpu));
        let resident = |row: &Row| row.sizes.as_ref().map_or(0, |sizes| sizes.resident_mib);
        let growth = rows[rows.len() / 2..].iter().map(|row| resident(row)).max().unwrap_or_default().saturating_sub(resident(half));
        if slower > MAX_SLOWDOWN || dearer > MAX_SLOWDOWN {
            self.faults
                .push(format!("{transport:?}: the last builds took {slower:.2} times as long as the first, {dearer:.2} times the CPU"));
        }
        if growth > MAX_GROWTH_MIB {
            self.faults.push(format!("{transport:?}: {growth} MiB more in the second half"));
        }
    }

    pub fn assert_bounds(&self) {
        assert!(self.faults.is_empty(), "{:#?}", self.faults);
    }
}

/// Whether nothing of builds is left but what may be.
pub fn is_settled(sizes: &Sizes, warm: &Sizes) -> bool {
    sizes.descriptors <= warm.descriptors + SPARE
        && sizes.tasks <= warm.tasks + SPARE
        && sizes.spool_files <= warm.spool_files
        && sizes.resident_mib <= MAX_RESIDENT_MIB
}
