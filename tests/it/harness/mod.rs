//! What the tests stand on.

/// A database per test.
pub(crate) mod postgres;

/// Monitors as settings would make them.
pub(crate) mod monitors;
