//! `remora serve`: from the configuration to the drain.

use anyhow::Context as _;
use tokio::signal::unix::{Signal, SignalKind, signal};

use super::failure::Failure;
use crate::app::App;
use crate::config::Config;
use crate::telemetry;

pub(super) async fn run(config: Config) -> Result<(), Failure> {
    telemetry::init(&config.log).map_err(|error| Failure::Usage(format!("log.filter: {error}")))?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    let mut signals = Signals::new()?;
    let app = App::start(config).await?;
    tracing::info!(version = env!("CARGO_PKG_VERSION"), "remora is up");
    let name = signals.next().await;
    tracing::info!(signal = name, "told to end");
    tokio::select! {
        () = app.drain() => {
            tracing::info!("drained");
            Ok(())
        }
        name = signals.next() => {
            tracing::warn!(signal = name, "a second signal: stopping at once");
            Err(Failure::Said)
        }
    }
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> anyhow::Result<Self> {
        let listen = |kind| signal(kind).context("cannot listen for signals");
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) -> &'static str {
        tokio::select! {
            _ = self.terminate.recv() => "SIGTERM",
            _ = self.interrupt.recv() => "SIGINT",
        }
    }
}
