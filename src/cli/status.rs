//! `remora status`: what a running remora is doing, and what is waiting in its journal.

use std::io::Write;
use std::time::Duration;

use super::admin::AdminArgs;
use super::failure::Failure;
use super::output::{age, count, print_json, size};
use crate::admin::Status;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    admin: AdminArgs,
    /// Print one JSON object
    #[arg(long, env = "REMORA_JSON", hide_env_values = true)]
    json: bool,
}

pub(super) async fn run(args: &Args, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
    let answer = args.admin.get("/status").await?;
    let status: Status =
        serde_json::from_slice(&answer.body).map_err(|_| anyhow::anyhow!("{} answered {}", answer.address, answer.status))?;
    if args.json {
        return Ok(print_json(out, &status)?);
    }
    let uptime = humantime::format_duration(Duration::from_secs(status.uptime_seconds));
    writeln!(out, "remora   {}, up for {uptime}", status.version)?;
    writeln!(out, "builds   {} running", status.builds_running)?;
    for store in &status.stores {
        let breaker = store.breaker.as_ref().map(|breaker| format!(", breaker {breaker}")).unwrap_or_default();
        writeln!(out, "store    {}{breaker}", store.url)?;
    }
    let cache = &status.cache;
    let (spool, journal) = (&cache.spool, &cache.journal);
    let ingests = count(cache.ingests, "ingest");
    let uploads = count(cache.uploads, "upload");
    writeln!(out, "spool    {} of {}; {ingests}, {uploads}", size(spool.bytes), size(spool.max_bytes))?;
    let oldest = journal.oldest.map(|oldest| format!(", the oldest from {} ago", age(oldest))).unwrap_or_default();
    let entries = if journal.entries == 1 { "1 entry".to_owned() } else { format!("{} entries", journal.entries) };
    writeln!(out, "journal  {entries} ({}){oldest}", size(journal.bytes))?;
    if let Some(error) = &journal.last_error {
        writeln!(out, "         the last error: {error}")?;
    }
    Ok(())
}
