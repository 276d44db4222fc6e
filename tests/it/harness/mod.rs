//! What the tests stand on.

/// A database per test.
pub mod postgres;
