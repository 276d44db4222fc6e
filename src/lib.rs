//! driftd watches the inputs of deployed models and decides when a model has to be retrained.
//!
//! The modules stand in the order in which data meets them.

/// Command line: one file per command.
pub mod cli;

/// What the user wrote, checked all at once, as types that cannot be wrong.
pub mod settings;

/// What is watched.
pub mod monitor;

/// How much memory the system's allocator keeps back.
pub mod allocator;

/// The one place that knows the time.
pub mod clock;

/// Where a test can end the process; nothing in a release.
pub mod failpoint;

/// Starts the tasks, and tells how they end.
pub mod daemon;

/// The collect half, top to bottom.
pub mod collect;

/// The judge half, top to bottom.
pub mod judge;

/// What a judged window does to alerts.
pub mod alert;

/// Messages in, Arrow record batches out.
pub mod ingest;

/// The rows of one stretch of one partition, as Arrow columns.
pub mod batch;

/// Event time to windows; watermarks; late rows.
pub mod window;

/// The mergeable summary of a stretch of a partition.
pub mod profile;

/// The stored training distribution.
pub mod baseline;

/// The tests.
pub mod compare;

/// Scores, policy and history to a verdict.
pub mod decide;

/// What others ask over HTTP: alive, ready, metrics.
pub mod api;

/// Logs and metrics.
pub mod telemetry;

/// All SQL: one file per table.
pub mod store;

/// Retraining: what asks for it, when, and what stops it.
pub mod retrain;

/// What is told to the outside, at least once.
pub mod notify;

/// Partitions made ahead, old rows dropped, vacuum not held up.
pub mod upkeep;

/// The broker and the Postgres of the demo and of the tests.
pub mod embedded;
