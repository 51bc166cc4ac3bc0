//! `remora health`: asks a running remora whether it is ready, for containers that have no other program.

use http::StatusCode;

use super::admin::AdminArgs;
use super::failure::Failure;
use crate::admin::Report;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
    #[command(flatten)]
    admin: AdminArgs,
}

pub(super) async fn run(args: &Args) -> Result<(), Failure> {
    let answer = args.admin.get("/readyz").await?;
    if answer.status == StatusCode::OK {
        return Ok(());
    }
    let causes = match serde_json::from_slice::<Report>(&answer.body) {
        Ok(report) => report.checks.into_iter().filter_map(|check| Some(format!("{}: {}", check.name, check.cause?))).collect(),
        Err(_) => vec![format!("{} answered {}", answer.address, answer.status)],
    };
    Err(Failure::Failed(anyhow::anyhow!("not ready: {}", causes.join("; "))))
}
