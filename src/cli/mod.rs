//! The command line: the tree of commands, and their exit codes.
//!
//! Exit codes: 0 done, 1 failed (for `verify`: something is wrong), 64 wrong flags or configuration
//! (`EX_USAGE` of sysexits).

mod admin;
mod failure;
mod health;
mod inspect;
mod ls;
mod output;
mod rm;
mod scope;
mod serve;
mod status;
mod verify;

use std::ffi::OsString;
use std::io::Write;
use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};

use failure::Failure;

use crate::config::{self, Config, Flags};

const EXIT_FAILED: u8 = 1;
const EXIT_USAGE: u8 = 64;

/// Serves BuildKit's S3 build cache and keeps the credentials out of the builder.
#[derive(Debug, Parser)]
#[command(name = "remora", version, about, arg_required_else_help = true, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Serve builds until SIGTERM or SIGINT
    #[command(after_help = "\
Examples:
  remora serve
      A cache in /var/lib/remora, for the buildkitd of this machine.
  remora serve --store s3://build-cache/ci --s3 tcp://0.0.0.0:9190 --s3-advertise http://remora:9190
      A cache in S3, for a buildkitd in another container.

ADDR is unix:///path or tcp://host:port. A flag beats its variable, and that the configuration file.")]
    Serve(Box<Flags>),
    /// Print the configuration in force, secrets masked; exit 64 when it cannot be used
    #[command(after_help = "Example:\n  remora check-config --config /etc/remora/config.toml")]
    CheckConfig(Box<Flags>),
    /// Exit 0 when a running remora is ready, 1 with the causes when it is not
    #[command(after_help = "Example:\n  remora health --admin tcp://127.0.0.1:9191")]
    Health(health::Args),
    /// Show what a running remora is doing, and what waits in its journal
    #[command(after_help = "Example:\n  remora status --json | jq .journal.entries")]
    Status(status::Args),
    /// List the caches of a bucket
    #[command(after_help = "Example:\n  remora ls --store s3://build-cache --json")]
    Ls(ls::Args),
    /// Show what a cache consists of
    #[command(after_help = "Example:\n  remora inspect app --store s3://build-cache")]
    Inspect(inspect::Args),
    /// Delete caches by name; their blobs stay, since other caches may share them
    #[command(after_help = "Example:\n  remora rm app app-pr-17 --store s3://build-cache")]
    Rm(rm::Args),
    /// Read every blob that the caches need; exit 1 when one is missing or not what it should be
    #[command(after_help = "Example:\n  remora verify --store s3://build-cache --json | jq .problems")]
    Verify(verify::Args),
}

/// Runs the command that `arguments` (the program's name first) ask for.
pub async fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let command = match parse(arguments) {
        Ok(command) => command,
        Err(error) => {
            // Help goes to stdout, errors to stderr.
            let _ = error.print();
            return if error.use_stderr() { EXIT_USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    let mut out = std::io::stdout();
    let (code, message) = match command.run(&mut out).await {
        Ok(()) => return ExitCode::SUCCESS,
        Err(Failure::Said) => return EXIT_FAILED.into(),
        // `remora ls | head`: the reader has seen enough.
        Err(Failure::Failed(error)) if is_broken_pipe(&error) => return ExitCode::SUCCESS,
        Err(Failure::Failed(error)) => (EXIT_FAILED, format!("{error:#}")),
        Err(Failure::Usage(message)) => (EXIT_USAGE, message),
    };
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let _ = writeln!(std::io::stderr(), "remora: {line}");
    code.into()
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<std::io::Error>().is_some_and(|error| error.kind() == std::io::ErrorKind::BrokenPipe)
}

fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, clap::Error> {
    let mut tree = Cli::command();
    let matches = tree.try_get_matches_from_mut(arguments)?;
    let mut cli = Cli::from_arg_matches(&matches)?;
    if let Some((name, matches)) = matches.subcommand()
        && let Some(command) = tree.find_subcommand(name)
        && let Some(flags) = cli.command.store_flags()
    {
        flags.note_origins(command, matches);
    }
    Ok(cli.command)
}

impl Command {
    fn store_flags(&mut self) -> Option<&mut config::StoreFlags> {
        match self {
            Self::Serve(flags) | Self::CheckConfig(flags) => Some(&mut flags.store),
            Self::Health(_) | Self::Status(_) => None,
            Self::Ls(args) => Some(&mut args.scope.store),
            Self::Inspect(args) => Some(&mut args.scope.store),
            Self::Rm(args) => Some(&mut args.scope.store),
            Self::Verify(args) => Some(&mut args.scope.store),
        }
    }

    async fn run(self, out: &mut (dyn Write + Send)) -> Result<(), Failure> {
        match self {
            Self::Serve(flags) => serve::run(Config::load(&flags)?).await,
            Self::CheckConfig(flags) => check_config(&Config::load(&flags)?, out),
            Self::Health(args) => health::run(&args).await,
            Self::Status(args) => status::run(&args, out).await,
            Self::Ls(args) => ls::run(args, out).await,
            Self::Inspect(args) => inspect::run(args, out).await,
            Self::Rm(args) => rm::run(args, out).await,
            Self::Verify(args) => verify::run(args, out).await,
        }
    }
}

fn check_config(config: &Config, out: &mut dyn Write) -> Result<(), Failure> {
    for warning in &config.warnings {
        writeln!(std::io::stderr(), "remora: warning: {warning}")?;
    }
    Ok(out.write_all(config.to_toml()?.as_bytes())?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tree_is_sound_and_every_flag_has_a_variable() {
        let tree = Cli::command();
        tree.clone().debug_assert();
        for command in tree.get_subcommands() {
            for flag in command.get_arguments().filter_map(|argument| Some((argument.get_long()?, argument))) {
                let wanted = format!("REMORA_{}", flag.0.replace('-', "_").to_uppercase());
                assert_eq!(flag.1.get_env().map(|name| name.to_string_lossy().into_owned()), Some(wanted), "{}", command.get_name());
            }
        }
    }
}
