//! driftd watches the inputs of deployed models and decides when a model has to be retrained.
//!
//! The modules stand in the order in which data meets them.

/// Command line: one file per command.
pub mod cli;

/// What the user wrote, checked all at once, as types that cannot be wrong.
pub mod settings;

/// What is watched.
pub mod monitor;

/// The one place that knows the time.
pub mod clock;

/// Event time to windows; watermarks; late rows.
pub mod window;

/// The tests.
pub mod compare;

/// What others ask over HTTP: alive, ready, metrics.
pub mod api;

/// Logs and metrics.
pub mod telemetry;
