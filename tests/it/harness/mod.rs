//! What the tests stand on.

/// An Apache Kafka broker of the tests' own.
pub(crate) mod kafka;
/// A database per test.
pub(crate) mod postgres;
