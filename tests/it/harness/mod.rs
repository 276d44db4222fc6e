//! What the tests stand on.

/// A database per test.
pub(crate) mod postgres;
