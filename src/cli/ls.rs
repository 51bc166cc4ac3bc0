//! `remora ls`: the caches of a bucket.

use std::io::Write;

use serde::Serialize;
use time::OffsetDateTime;

use super::failure::Failure;
use super::output::{age, print_json, print_table, size, table};
use super::scope::ScopeArgs;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    pub(super) scope: ScopeArgs,
    /// Print one JSON array
    #[arg(long, env = "REMORA_JSON", hide_env_values = true)]
    json: bool,
}

#[derive(Serialize)]
struct ListedCache {
    name: String,
    /// Bytes of the manifest itself.
    size: u64,
    etag: String,
    #[serde(with = "time::serde::rfc3339")]
    modified: OffsetDateTime,
}

pub(super) async fn run(args: Args, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
    let opened = args.scope.open().await?;
    let manifests = opened.manifests().await?;
    if args.json {
        let listed = |info: &crate::cache::ManifestInfo| ListedCache {
            name: info.name.to_string(),
            size: info.size,
            etag: info.etag.to_string(),
            modified: info.modified,
        };
        return Ok(print_json(out, &manifests.iter().map(listed).collect::<Vec<_>>())?);
    }
    if manifests.is_empty() {
        writeln!(std::io::stderr(), "no caches in {}", opened.grant.scope())?;
        return Ok(());
    }
    let mut listing = table(&["NAME", "MANIFEST", "AGE"], &[1]);
    for info in &manifests {
        listing.add_row(vec![info.name.to_string(), size(info.size), age(info.modified)]);
    }
    Ok(print_table(out, &listing)?)
}
