//! Logs, and the metrics.

pub mod metrics;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

use crate::settings::{Log, LogFormat};

/// Why there are no logs or metrics.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The level is none; settings refuse such a one, the demo's flags need not have.
    #[error("log level {level:?}: {source}")]
    Level {
        /// As given.
        level: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// Logging was begun before.
    #[error("logging was begun twice: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
    /// Another recorder is installed, or the buckets are wrong.
    #[error("cannot collect metrics: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
}

/// Begins to log to standard error, as text or as one JSON object an event.
///
/// # Errors
/// When the level is none, or when logging was begun before.
pub fn init(log: &Log) -> Result<(), Error> {
    let filter = EnvFilter::try_new(&log.level).map_err(|source| Error::Level {
        level: log.level.clone(),
        source,
    })?;
    let registry = tracing_subscriber::registry().with(filter);
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match log.format {
        LogFormat::Text => registry.with(lines.with_ansi(ansi())).try_init()?,
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init()?,
    }
    Ok(())
}

/// Colours only for people, never in a file.
fn ansi() -> bool {
    use std::io::IsTerminal as _;
    std::io::stderr().is_terminal()
}
