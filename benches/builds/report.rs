//! The results: as tables for people, as JSON for programs.

use std::fmt::Write as _;

use anyhow::Result;
use comfy_table::Table;
use serde::Serialize;

use crate::figures::{median, mib, table};
use crate::host_facts::Machine;
use crate::sample::Sample;
use crate::workloads::{GOALS, Goal};

/// What every other contestant is compared with.
const BASELINES: [&str; 4] = ["native plain", "native shaped", "local", "direct"];

/// All samples of one contestant in one workload.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) workload: &'static str,
    pub(crate) contestant: &'static str,
    pub(crate) samples: Vec<Sample>,
    /// Why there are none, or no more.
    pub(crate) error: Option<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    pub(crate) command: String,
    /// Multiplies the sizes that the workloads' names tell.
    pub(crate) size_factor: f64,
    pub(crate) rows: Vec<Row>,
    pub(crate) goals: Vec<Verdict>,
    pub(crate) hot_name: Option<crate::hot_name::Facts>,
    pub(crate) blobs: Option<crate::blob_reads::Blobs>,
    pub(crate) streams: Option<crate::content_streams::Streams>,
}

/// A goal and what was measured.
#[derive(Debug, Serialize)]
pub(crate) struct Verdict {
    pub(crate) workload: &'static str,
    pub(crate) contestant: &'static str,
    pub(crate) against: &'static str,
    pub(crate) less: Option<&'static str>,
    pub(crate) ratio: f64,
    pub(crate) at_most: f64,
}

impl Row {
    fn walls(&self) -> Vec<f64> {
        self.samples.iter().map(|sample| sample.wall_seconds).collect()
    }

    fn median_of(&self, value: impl Fn(&Sample) -> f64) -> f64 {
        median(self.samples.iter().map(value).collect())
    }
}

/// The median of the ratios of runs of the same round.
pub(crate) fn ratio(rows: &[Row], workload: &str, contestant: &str, against: &str, less: Option<&str>) -> Option<f64> {
    let walls = |contestant: &str| rows.iter().find(|row| row.workload == workload && row.contestant == contestant).map(Row::walls);
    let (ours, theirs) = (walls(contestant)?, walls(against)?);
    let less = match less {
        Some(less) => median(walls(less)?),
        None => 0.0,
    };
    let ratios: Vec<f64> = ours.iter().zip(&theirs).map(|(ours, theirs)| (ours - less) / (theirs - less)).collect();
    (!ratios.is_empty()).then(|| median(ratios))
}

/// What is known of the goals.
pub(crate) fn verdicts(rows: &[Row]) -> Vec<Verdict> {
    let of_goal = |goal: &'static Goal| {
        let Goal { workloads, contestant, against, less, at_most } = *goal;
        workloads.iter().filter_map(move |workload| {
            let ratio = ratio(rows, workload, contestant, against, less)?;
            Some(Verdict { workload, contestant, against, less, ratio, at_most })
        })
    };
    GOALS.iter().flat_map(of_goal).collect()
}

impl Report {
    pub(crate) fn text(&self) -> Result<String> {
        let mut text = format!("{}\n", self.machine.line());
        writeln!(text, "command: {}; sizes × {}\n", self.command, self.size_factor)?;
        if !self.rows.is_empty() {
            writeln!(text, "{}\n", self.rows_table())?;
        }
        if !self.goals.is_empty() {
            writeln!(text, "{}\n", self.goals_table())?;
        }
        if let Some(hot_name) = &self.hot_name {
            writeln!(text, "{}\n", hot_name.table())?;
        }
        if let Some(blobs) = &self.blobs {
            writeln!(text, "{}\n\n{}\n", blobs.reads_table(), blobs.footprint_table())?;
        }
        if let Some(streams) = &self.streams {
            writeln!(text, "{}\n", streams.table())?;
        }
        Ok(text)
    }

    fn rows_table(&self) -> Table {
        let present: Vec<&str> = BASELINES.into_iter().filter(|baseline| self.rows.iter().any(|row| row.contestant == *baseline)).collect();
        let mut header =
            ["workload", "contestant", "median s", "min–max s", "buildkitd CPU s", "remora CPU s", "buildkitd MiB", "remora MiB"]
                .map(str::to_owned)
                .to_vec();
        header.push("S3 requests".to_owned());
        header.extend(present.iter().map(|baseline| format!("/ {baseline}")));
        let mut table = table(header, 2);
        for row in &self.rows {
            let mut cells = vec![row.workload.to_owned(), row.contestant.to_owned()];
            if row.samples.is_empty() {
                cells.push("not available".to_owned());
            } else {
                cells.extend(cost_cells(row));
                cells.extend(present.iter().map(|baseline| {
                    let ratio = ratio(&self.rows, row.workload, row.contestant, baseline, None);
                    ratio.map_or_else(String::new, |ratio| format!("{ratio:.2}"))
                }));
            }
            table.add_row(cells);
        }
        table
    }

    fn goals_table(&self) -> Table {
        let mut table = table(["workload", "time of", "by time of", "measured", "goal", "reached"].map(str::to_owned).to_vec(), 3);
        for Verdict { workload, contestant, against, less, ratio, at_most } in &self.goals {
            let less = less.map_or_else(String::new, |less| format!(" (each less {less})"));
            let reached = if ratio <= at_most { "yes" } else { "no" };
            let cells = [*workload, contestant, &format!("{against}{less}"), &format!("{ratio:.2}"), &format!("≤ {at_most:.2}"), reached];
            table.add_row(cells.map(str::to_owned));
        }
        table
    }
}

fn cost_cells(row: &Row) -> [String; 7] {
    let walls = row.walls();
    let (least, most) = walls.iter().fold((f64::MAX, 0.0_f64), |(least, most), wall| (least.min(*wall), most.max(*wall)));
    let has_remora = row.samples.iter().any(|sample| sample.remora_peak_rss.is_some());
    let of_remora = |text: String| if has_remora { text } else { String::new() };
    let requests = row
        .samples
        .iter()
        .any(|sample| sample.upstream.is_some())
        .then(|| row.median_of(|sample| sample.upstream.as_ref().map_or(0, |traffic| traffic.requests.values().sum::<u64>()) as f64));
    [
        format!("{:.2}", median(walls)),
        format!("{least:.2}–{most:.2}"),
        format!("{:.2}", row.median_of(|sample| sample.cpu_seconds.buildkitd)),
        of_remora(format!("{:.2}", row.median_of(|sample| sample.cpu_seconds.remora.unwrap_or_default()))),
        mib(row.median_of(|sample| sample.buildkitd_peak_rss as f64)),
        of_remora(mib(row.median_of(|sample| sample.remora_peak_rss.unwrap_or_default() as f64))),
        requests.map_or_else(String::new, |requests| format!("{requests:.0}")),
    ]
}
