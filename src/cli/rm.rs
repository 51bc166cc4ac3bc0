//! `remora rm`: deletes caches by name.

use std::io::Write;

use serde::Serialize;

use super::failure::Failure;
use super::output::{count, print_json};
use super::scope::{ScopeArgs, parse_name};
use crate::cache::Error;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The caches' names
    #[arg(required = true, value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    pub(super) scope: ScopeArgs,
    /// Print one JSON object
    #[arg(long, env = "REMORA_JSON", hide_env_values = true)]
    json: bool,
}

#[derive(Serialize, Default)]
struct Removed {
    deleted: Vec<String>,
    missing: Vec<String>,
}

pub(super) async fn run(args: Args, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
    let names = args.names.iter().map(|name| parse_name(name)).collect::<Result<Vec<_>, _>>()?;
    let opened = args.scope.open().await?;
    let mut removed = Removed::default();
    for name in names {
        match opened.cache.manifests().delete(&opened.grant, &name).await {
            Ok(()) => removed.deleted.push(name.to_string()),
            Err(Error::NotFound(_)) => removed.missing.push(name.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    let scope = opened.grant.scope();
    if args.json {
        print_json(out, &removed)?;
    } else if !removed.deleted.is_empty() {
        let manifests = count(removed.deleted.len(), "manifest");
        writeln!(
            out,
            "deleted {manifests} from {scope}: {}; the blobs stay, since other caches may share them",
            removed.deleted.join(", ")
        )?;
    }
    if removed.missing.is_empty() {
        Ok(())
    } else {
        Err(Failure::Failed(anyhow::anyhow!("no such cache in {scope}: {}", removed.missing.join(", "))))
    }
}
