//! What the tests stand on.

/// An Apache Kafka broker of the tests' own.
pub(crate) mod kafka;
/// A database per test.
pub(crate) mod postgres;

/// Monitors as settings would make them.
pub(crate) mod monitors;

/// Short words for the queue of retraining jobs.
pub(crate) mod queue;
