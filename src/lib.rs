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

/// All SQL: one file per table.
pub mod store;

/// Retraining: what asks for it, when, and what stops it.
pub mod retrain;

/// What is told to the outside, at least once.
pub mod notify;

/// The broker and the Postgres of the demo and of the tests.
pub mod embedded;
