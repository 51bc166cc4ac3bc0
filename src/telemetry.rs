//! Logs: to stderr, as text for people or as JSON for collectors.
//!
//! The filter reaches as deep as it says, except into libraries that print headers, commands and
//! signatures at debug and trace: those stay at info, whatever the filter, so that no secret is logged.

use std::fmt;
use std::io::IsTerminal as _;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use tracing::metadata::LevelFilter;
use tracing::{Level, Metadata};
use tracing_subscriber::filter::{EnvFilter, FilterExt as _, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{Layer, Registry};

/// What the targets of libraries that are held at info begin with. At trace the AWS SDK prints whole
/// requests and the commands of credential processes, the HTTP stacks headers; s3s prints the signature
/// that it expected, which opens as much as the right one.
const QUIET: [&str; 9] = ["aws_", "h2", "hyper", "reqwest", "rustls", "s3s", "tokio_rustls", "tonic", "tower"];

/// What is logged, and how.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    /// Which messages.
    pub filter: Filter,
    /// In which form.
    pub format: Format,
}

/// Levels by target, as in `info,remora=debug`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter(String);

/// The form of a log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Text; coloured on a terminal.
    #[default]
    Auto,
    /// Text.
    Text,
    /// One JSON object a line.
    Json,
}

/// A filter that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid log filter {0:?}: want off, error, warn, info, debug or trace, or target=level, separated by commas")]
pub struct InvalidFilter(String);

impl Default for Filter {
    fn default() -> Self {
        Self("info".to_owned())
    }
}

impl FromStr for Filter {
    type Err = InvalidFilter;

    fn from_str(text: &str) -> Result<Self, InvalidFilter> {
        // A lone word is a target to `EnvFilter`, so a mistyped level would silence everything.
        let is_level = |word: &str| !word.is_empty() && word.parse::<LevelFilter>().is_ok();
        let words_are_levels = text.split(',').all(|part| part.contains('=') || is_level(part.trim()));
        match EnvFilter::builder().parse(text) {
            Ok(_) if words_are_levels => Ok(Self(text.to_owned())),
            _ => Err(InvalidFilter(text.to_owned())),
        }
    }
}

impl fmt::Display for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Logs from here on. A second call in one process changes nothing.
///
/// # Errors
/// [`InvalidFilter`], which a parsed filter never is.
pub fn init(config: &Config) -> Result<(), InvalidFilter> {
    let filter = EnvFilter::builder().parse(&config.filter.0).map_err(|_| InvalidFilter(config.filter.0.clone()))?;
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let coloured = std::io::stderr().is_terminal() && config.format == Format::Auto;
    let layer: Box<dyn Layer<Registry> + Send + Sync> = match config.format {
        Format::Json => lines.json().flatten_event(true).with_current_span(false).boxed(),
        Format::Auto | Format::Text => lines.with_ansi(coloured).boxed(),
    };
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter.and(filter_fn(may_be_logged)))).try_init();
    Ok(())
}

fn may_be_logged(metadata: &Metadata<'_>) -> bool {
    *metadata.level() <= Level::INFO || !QUIET.iter().any(|quiet| metadata.target().starts_with(quiet))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mistyped_levels_are_refused() {
        for good in ["info", "trace", "warn,remora=debug", "remora::cache=trace,off", "INFO"] {
            assert!(good.parse::<Filter>().is_ok(), "{good}");
        }
        for bad in ["", "inof", "remora=loud", "info,,", "remora"] {
            assert!(bad.parse::<Filter>().is_err(), "{bad}");
        }
    }
}
